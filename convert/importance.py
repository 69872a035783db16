"""An importance matrix: how much each column of a matrix counts when its rows are quantized.

Knows both files that llama.cpp's imatrix tool writes, the GGUF and the older .dat, and reads them as
llama-quantize does (`load_imatrix` in its quantize.cpp, common/imatrix-loader.cpp): values are means of
squared activations. Does not know checkpoints: a tensor is a GGUF name.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from checkpoint.gguf import GgufSummary
from convert.fields import MAGIC, Field, string, uint32
from convert.reader import read_gguf
from errors import ConversionError

__all__ = ["Importance", "read_importance"]

_Floats = np.ndarray[Any, np.dtype[np.float32]]
_LONGEST_TEXT = 127
"""Bytes that llama-quantize keeps of a text it adds to the metadata."""
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")


@dataclass(frozen=True)
class Importance:
    """What an imatrix file holds."""

    path: Path
    """As the user named it."""
    weights: Mapping[str, _Floats] = field(repr=False)
    """By the name of the tensor: a row's length of values for each expert, one after the other."""
    datasets: tuple[str, ...] = ()
    chunks: int = 0

    def of(self, name: str, shape: tuple[int, ...]) -> _Floats | None:
        """Return the weights of tensor `name` as (experts, row length); None where it has none, and it is
        then quantized without.

        Raises `ConversionError` where their number is not the tensor's, unless it is the embedding's, whose
        rows no activation ever meets.
        """
        values = self.weights.get(name)
        if values is None:
            return None
        experts = shape[0] if len(shape) > 2 else 1
        if values.size == experts * shape[-1]:
            return values.reshape(experts, -1)
        if name in _EMBEDDINGS:
            return None
        raise ConversionError(
            f"The importance matrix {self.path} has {values.size} values for {name}, which needs "
            f"{experts * shape[-1]}.",
            hint="It was made with another model: make one with this model's own GGUF.",
        )

    def fields(self) -> tuple[Field, ...]:
        """Return the metadata by which llama-quantize tells of it."""
        fields = [string("quantize.imatrix.file", _short(str(self.path)))]
        if self.datasets:
            fields.append(string("quantize.imatrix.dataset", _short(self.datasets[0])))
        fields.append(uint32("quantize.imatrix.entries_count", len(self.weights)))
        if self.chunks > 0:
            fields.append(uint32("quantize.imatrix.chunks_count", self.chunks))
        return tuple(fields)


def read_importance(path: Path) -> Importance:
    """Read an imatrix file of either form. Raises `ConversionError`."""
    try:
        with path.open("rb") as stream:
            is_gguf = stream.read(len(MAGIC)) == MAGIC
            stream.seek(0)
            made = _read_gguf(path, stream) if is_gguf else _read_legacy(path, stream)
    except OSError as error:
        raise ConversionError(
            f"Cannot read the importance matrix {path}: {error.strerror or error}.",
            hint="Name the file that llama-imatrix wrote.",
        ) from error
    if not made.weights:
        raise _bad(path, "holds no entry")
    for name, values in made.weights.items():
        if not np.isfinite(values).all():
            raise _bad(path, f"holds values for {name} that are NaN or infinite")
    return made


def _read_gguf(path: Path, stream: BinaryIO) -> Importance:
    summary = read_gguf(path, arrays=("imatrix.datasets",))
    keys = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")
    if any(key not in summary.metadata for key in keys):
        raise _bad(path, f"lacks one of the keys {', '.join(keys)}")
    tensors = {name: _floats(summary, index, stream) for index, name in enumerate(_names(summary))}
    weights = {}
    for name in sorted({name.removesuffix(".in_sum2").removesuffix(".counts") for name in tensors}):
        sums, counts = tensors.get(f"{name}.in_sum2"), tensors.get(f"{name}.counts")
        if sums is None or counts is None or not counts.size or sums.size % counts.size:
            raise _bad(path, f"has sums and counts for {name} that do not belong together")
        weights[name] = _means(sums, counts)
    datasets, chunks = summary.metadata["imatrix.datasets"], summary.metadata["imatrix.chunk_count"]
    if not isinstance(datasets, list | tuple) or not isinstance(chunks, int):
        raise _bad(path, "has metadata of the wrong types")
    return Importance(path, weights, tuple(map(str, datasets)), chunks)


def _names(summary: GgufSummary) -> list[str]:
    return [tensor.name for tensor in summary.tensors]


def _floats(summary: GgufSummary, index: int, stream: BinaryIO) -> _Floats:
    tensor = summary.tensors[index]
    if tensor.type != "F32" or tensor.bytes is None:
        raise _bad(summary.path, f"stores {tensor.name} as {tensor.type} instead of F32")
    stream.seek(tensor.offset)
    data = stream.read(tensor.bytes)
    if len(data) != tensor.bytes:
        raise _bad(summary.path, "is cut off")
    return np.frombuffer(data, "<f4").astype(np.float32)


def _means(sums: _Floats, counts: _Floats) -> _Floats:
    """Return sums / counts; an expert that was never used has weights of 1."""
    rounded = np.floor(counts.astype(np.float64) + 0.5).astype(np.float32)[:, None]
    each = sums.reshape(len(counts), -1)
    return np.where(rounded > 0, each / np.where(rounded > 0, rounded, 1), np.float32(1)).reshape(-1)


def _read_legacy(path: Path, stream: BinaryIO) -> Importance:
    size = path.stat().st_size
    weights: dict[str, _Floats] = {}
    for _ in range(_int(path, stream)):
        name = _text(path, stream, size)
        calls, count = _int(path, stream), _int(path, stream)
        if not 0 < count <= size // 4:
            raise _bad(path, f"says that {name[:80]!r} has {count} values")
        values = np.frombuffer(_exactly(path, stream, 4 * count), "<f4").astype(np.float32)
        weights[name] = values / np.float32(calls) if calls > 0 else values
    if not stream.peek(1):  # type: ignore[attr-defined]
        return Importance(path, weights)
    chunks = _int(path, stream)
    at_end = not stream.peek(1)  # type: ignore[attr-defined]
    return Importance(path, weights, () if at_end else (_text(path, stream, size),), chunks)


def _int(path: Path, stream: BinaryIO) -> int:
    return int(struct.unpack("<i", _exactly(path, stream, 4))[0])


def _text(path: Path, stream: BinaryIO, size: int) -> str:
    length = _int(path, stream)
    if not 0 <= length <= size:
        raise _bad(path, "is no imatrix file")
    return _exactly(path, stream, length).decode("utf-8", "replace")


def _exactly(path: Path, stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise _bad(path, "is cut off, or is no imatrix file")
    return data


def _bad(path: Path, what: str) -> ConversionError:
    return ConversionError(
        f"The importance matrix {path} {what}.", hint="Make it again with llama.cpp's llama-imatrix."
    )


def _short(text: str) -> str:
    return text.encode()[:_LONGEST_TEXT].decode("utf-8", "ignore")
