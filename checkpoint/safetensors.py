"""The safetensors format, on one page: reading and writing a file's header.

A file is: 8 bytes, the header's length N (little-endian, unsigned); N bytes of JSON; the tensors' bytes.
The header is one object. `__metadata__` maps strings to strings; every other entry is a tensor:
`{"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, end]}`, offsets counted from the end of
the header. Together the tensors, row-major and little-endian, cover the rest of the file with no hole and no
overlap.

Knows the format. Does not know what the tensors mean, nor any other file. No tensor is read here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from checkpoint.findings import CheckpointFlaw
from checkpoint.jsonfile import file_size, parse_object

__all__ = ["DTYPE_BITS", "Header", "TensorInfo", "header_bytes", "read_header"]

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of one element of each dtype of the format."""

MAX_HEADER = 100_000_000
"""The reference implementation refuses longer headers; so does Portside."""

_MAX_RANK = 64
_FETCH_AGAIN = "The file is incomplete or damaged: copy or fetch it again, or save the checkpoint again."


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor. `start` and `end` are absolute byte offsets in `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Header:
    """What the header of one file says, checked against the file's size."""

    file: Path
    size: int
    digest: str
    """sha256 of the header's bytes, hexadecimal."""
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]


def read_header(path: Path) -> Header:
    """Read and check the header of the safetensors file `path`. Raises `CheckpointFlaw` for every defect."""
    size = file_size(path)
    if size is None:
        raise CheckpointFlaw("shard-missing", f"{path} does not exist.", hint=_FETCH_AGAIN)
    blob = _header_blob(path, size)
    raw = parse_object(blob, f"the header of {path}", _unique_keys)
    metadata = raw.pop("__metadata__", None)
    offset = 8 + len(blob)
    tensors = {name: _tensor(path, name, entry, offset) for name, entry in raw.items()}
    _check_coverage(path, tensors.values(), offset, size)
    return Header(path, size, hashlib.sha256(blob).hexdigest(), _strings(metadata), tensors)


def header_bytes(
    tensors: Sequence[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return length and header of a file that holds `tensors` (name, dtype, shape) one after the other.

    The header is padded with spaces so that the data begins at a multiple of 8 bytes.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, dtype, shape in tensors:
        end = position + math.prod(shape) * DTYPE_BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _header_blob(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if start.startswith(b"version "):
                raise CheckpointFlaw(
                    "git-lfs-pointer",
                    f"{path} is a Git LFS pointer, not the weights.",
                    hint="Run `git lfs pull` in the checkpoint's repository.",
                )
            if len(start) < 8 or length > size - 8 or length > MAX_HEADER:
                what = f"{length:,} bytes" if len(start) == 8 else "nothing"
                raise _truncated(path, f"its header should have {what}, the file has {size:,}")
            return stream.read(length)
    except OSError as error:
        raise CheckpointFlaw("unreadable", f"{path} cannot be read: {error.strerror}.") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a key occurs twice")
    return entries


def _strings(metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict):
        return {}
    return {key: value for key, value in metadata.items() if isinstance(value, str)}


def _tensor(path: Path, name: str, entry: object, offset: int) -> TensorInfo:
    if not name or len(name) > 1000 or not name.isprintable():
        raise _damaged(path, f"a tensor has the name {name[:60]!r}")
    if not isinstance(entry, dict):
        raise _damaged(path, f"the entry of tensor {name} is not an object")
    dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _damaged(path, f"tensor {name} has the unknown dtype {str(dtype)[:40]!r}")
    if not _naturals(shape) or len(shape) > _MAX_RANK:
        raise _damaged(path, f"tensor {name} has no proper shape")
    if not _naturals(span) or len(span) != 2 or span[0] > span[1]:
        raise _damaged(path, f"tensor {name} has no proper data_offsets")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != (span[1] - span[0]) * 8:
        raise _damaged(
            path, f"tensor {name} has {span[1] - span[0]:,} bytes, {dtype} of shape {shape} has another size"
        )
    return TensorInfo(name, dtype, tuple(shape), path, offset + span[0], offset + span[1])


def _naturals(value: Any) -> TypeGuard[list[int]]:
    # bool is an int in Python; the upper bound is the format's own (64-bit sizes).
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_coverage(path: Path, tensors: Iterable[TensorInfo], offset: int, size: int) -> None:
    position = offset
    for tensor in sorted(tensors, key=lambda info: (info.start, info.end)):
        if tensor.start != position:
            what = "overlaps the one before it" if tensor.start < position else "leaves a hole before it"
            raise _damaged(path, f"tensor {tensor.name} {what}")
        position = tensor.end
    if position > size:
        raise _truncated(path, f"its tensors end at byte {position:,}, the file has {size:,}")
    if position < size:
        raise _damaged(path, f"its tensors end at byte {position:,}, but the file has {size:,}")


def _truncated(path: Path, reason: str) -> CheckpointFlaw:
    return CheckpointFlaw("shard-truncated", f"{path} is cut short: {reason}.", hint=_FETCH_AGAIN)


def _damaged(path: Path, reason: str) -> CheckpointFlaw:
    return CheckpointFlaw(
        "shard-damaged", f"{path} is not a sound safetensors file: {reason}.", hint=_FETCH_AGAIN
    )
