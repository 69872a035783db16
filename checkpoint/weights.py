"""The weights of a checkpoint: which tensors there are, and their bytes without a copy.

Knows: `model.safetensors`, or shards listed in `model.safetensors.index.json`; else the same of
`pytorch_model.bin`, whose pickle is read, never run. Does not know what a tensor is for.
"""

from __future__ import annotations

import hashlib
import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from checkpoint.adapter import LoraPair, LoraRows, adapter_flaw
from checkpoint.findings import CheckpointFlaw
from checkpoint.jsonfile import MEGABYTE, file_size, read_object
from checkpoint.rows import Rows, StoredRows
from checkpoint.safetensors import Header, TensorInfo, read_header
from checkpoint.torch_bin import read_torch_header

if TYPE_CHECKING:
    import numpy as np

__all__ = ["INDEX", "SINGLE", "Weights", "list_names"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TORCH_SINGLE = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"

_NUMPY = {
    "BOOL": "bool",
    "BF16": "uint16",  # numpy has no bfloat16; the bits are handed out as they are
    "F8_E4M3": "uint8",
    "F8_E5M2": "uint8",
    "F8_E8M0": "uint8",
    "F8_E4M3FNUZ": "uint8",
    "F8_E5M2FNUZ": "uint8",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
}


class Weights:
    """All tensors of a checkpoint. Opening reads the headers of all shards and no tensor."""

    def __init__(
        self,
        headers: Mapping[str, Header],
        tensors: Mapping[str, TensorInfo],
        pairs: Mapping[str, LoraPair] = MappingProxyType({}),
    ) -> None:
        self.headers = headers
        """File name -> header of each shard that is in use."""
        self._tensors = tensors
        self._pairs = pairs
        self._maps: dict[Path, mmap.mmap] = {}

    @classmethod
    def open(cls, directory: Path) -> Weights:
        """Find the weights below `directory`; raises `CheckpointFlaw` when any part is missing or damaged.

        As in transformers, safetensors win over torch files, and a single file over an index.
        """
        for single, index in ((SINGLE, INDEX), (TORCH_SINGLE, TORCH_INDEX)):
            if file_size(directory / single) is not None:
                header = _read(directory / single)
                return cls({single: header}, header.tensors)
            listed = read_object(directory / index, 64 * MEGABYTE)
            if listed is not None:
                weight_map = _weight_map(directory / index, listed)
                headers = _shard_headers(directory / index, weight_map)
                return cls(headers, _collect(directory / index, weight_map, headers))
        raise _no_weights(directory)

    def with_pairs(
        self, adapter: Header, tensors: Mapping[str, TensorInfo], pairs: Mapping[str, LoraPair]
    ) -> Weights:
        """Return weights of `tensors`, with `pairs` added as they are read; `adapter` is their file."""
        return Weights({**self.headers, adapter.file.name: adapter}, tensors, pairs)

    def renamed(self, tensors: Mapping[str, TensorInfo]) -> Weights:
        """Return weights of `tensors`: these, or parts of them, under other names."""
        return Weights(self.headers, tensors, self._pairs)

    @property
    def pickled(self) -> bool:
        """Whether the weights lie in files of torch's own format."""
        return any(name.endswith(".bin") for name in self.headers)

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names in the order of the index (of the header, for a single file)."""
        return tuple(self._tensors)

    def __iter__(self) -> Iterator[TensorInfo]:
        return iter(self._tensors.values())

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __len__(self) -> int:
        return len(self._tensors)

    def info(self, name: str) -> TensorInfo:
        """Return what is known of tensor `name`; raises `CheckpointFlaw` when there is none."""
        try:
            return self._tensors[name]
        except KeyError:
            raise CheckpointFlaw(
                "tensor-missing",
                f"The checkpoint has no tensor {name}.",
                hint="Save the merged model again; look for an interrupted merge.",
            ) from None

    def raw(self, name: str) -> np.ndarray[Any, Any]:
        """Return tensor `name` as stored: read-only, over the mapped file, no copy.

        BF16 comes as uint16 and the 8-bit floats as uint8, for numpy has no such types.
        """
        return self.view(self.info(name))

    def view(self, info: TensorInfo) -> np.ndarray[Any, Any]:
        """Return as `raw` does any tensor of the files in use, such as a matrix of an adapter."""
        import numpy as np

        if info.dtype not in _NUMPY:
            raise CheckpointFlaw(
                "dtype-unsupported", f"Tensor {info.name} in {info.file} has the dtype {info.dtype}."
            )
        dtype = np.dtype(_NUMPY[info.dtype])
        if info.elements == 0:
            return np.empty(info.shape, dtype)
        return np.frombuffer(self._map(info.file), dtype, info.elements, info.start).reshape(info.shape)

    def rows(self, name: str) -> Rows:
        """Return tensor `name` to be read by rows, without a copy; an adapter is merged in here."""
        stored = StoredRows((name,), self.info(name).dtype, self.raw(name))
        if name not in self._pairs:
            return stored
        pair = self._pairs[name]
        a, b = self._floats(pair.a), self._floats(pair.b)
        if pair.transposed:
            a, b = b.T, a.T
        return LoraRows(stored, a, b, pair.scale)

    def is_merged(self, name: str) -> bool:
        """Whether something is added to tensor `name` as it is read."""
        return name in self._pairs

    def _floats(self, info: TensorInfo) -> np.ndarray[Any, Any]:
        import numpy as np

        stored = self.view(info)
        if info.dtype == "BF16":
            return (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32)

    @property
    def parameters(self) -> int:
        """Number of stored elements; a tied output matrix is not stored and not counted."""
        return sum(info.elements for info in self)

    @property
    def bytes(self) -> int:
        return sum(info.nbytes for info in self)

    @cached_property
    def dtype(self) -> str | None:
        """The dtype ("BF16", …) in which most bytes are stored; None for no tensors."""
        sizes: Counter[str] = Counter()
        for info in self:
            sizes[info.dtype] += info.nbytes
        return sizes.most_common(1)[0][0] if sizes else None

    def fingerprint(self) -> str:
        """Return a cheap identity: header digest, size and modification time of every shard, hashed."""
        digest = hashlib.sha256()
        for name, header in sorted(self.headers.items()):
            digest.update(
                f"{name}\0{header.digest}\0{header.size}\0{header.file.stat().st_mtime_ns}\n".encode()
            )
        return digest.hexdigest()

    def _map(self, path: Path) -> mmap.mmap:
        if path not in self._maps:
            try:
                with path.open("rb") as stream:
                    self._maps[path] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise CheckpointFlaw("unreadable", f"{path} cannot be mapped: {error}.") from error
            # Where a shard was replaced after opening, its offsets mean nothing any more.
            if len(self._maps[path]) != self.headers[path.name].size:
                raise CheckpointFlaw("shard-truncated", f"{path} changed its size while it was being read.")
        return self._maps[path]


def _read(path: Path) -> Header:
    return read_torch_header(path) if path.suffix == ".bin" else read_header(path)


def _weight_map(path: Path, index: Mapping[str, Any]) -> dict[str, str]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointFlaw("index-damaged", f"{path} has no weight_map.", hint="Save the checkpoint again.")
    for name, shard in weight_map.items():
        if not _plain_name(shard, ".bin" if path.name == TORCH_INDEX else ".safetensors"):
            raise CheckpointFlaw(
                "index-damaged",
                f"{path} places tensor {name[:80]} in {str(shard)[:80]!r}, which is not the name of a "
                "shard in the same directory.",
                hint="Do not trust this checkpoint: a saved index names only files beside it.",
            )
    return weight_map


def _plain_name(shard: object, suffix: str) -> bool:
    return (
        isinstance(shard, str)
        and shard.endswith(suffix)
        and len(shard) < 256
        and shard.isprintable()
        and not set(shard) & set("/\\:")
    )


def _shard_headers(index: Path, weight_map: Mapping[str, str]) -> dict[str, Header]:
    directory, shards = index.parent, sorted(set(weight_map.values()))
    total = len(shards)
    missing = [shard for shard in shards if file_size(directory / shard) is None]
    if missing:
        listed = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise CheckpointFlaw(
            "shard-missing",
            f"{directory} lacks {len(missing)} of the {total} shards that {index.name} lists: {listed}.",
            hint="Copy or fetch the missing files, or save the checkpoint again.",
        )
    return {shard: _read(directory / shard) for shard in shards}


def _collect(
    path: Path, weight_map: Mapping[str, str], headers: Mapping[str, Header]
) -> dict[str, TensorInfo]:
    tensors = {}
    for name, shard in weight_map.items():
        info = headers[shard].tensors.get(name)
        if info is None:
            raise CheckpointFlaw(
                "tensor-missing",
                f"{path} places tensor {name[:80]} in {shard}, which does not hold it.",
                hint="Index and shards come from different saves: copy or save the checkpoint again.",
            )
        tensors[name] = info
    return tensors


def _no_weights(directory: Path) -> CheckpointFlaw:
    names = list_names(directory)
    if any(name.startswith("adapter_model") for name in names):
        return adapter_flaw(directory)
    for prefix, suffix, index in (("model-", ".safetensors", INDEX), ("pytorch_model-", ".bin", TORCH_INDEX)):
        if any(name.startswith(prefix) and name.endswith(suffix) for name in names):
            return CheckpointFlaw(
                "index-missing",
                f"{directory} has shards ({prefix}…{suffix}) but no {index}.",
                hint="Copy the index as well: without it nobody can tell whether all shards are there.",
            )
    return CheckpointFlaw(
        "weights-missing",
        f"{directory} has no {SINGLE}, no {TORCH_SINGLE}, and no index of shards.",
        hint="Give the directory of a merged Hugging Face checkpoint with its weights.",
    )


def list_names(directory: Path) -> list[str]:
    """Return the names of what is in `directory`, sorted. Raises `CheckpointFlaw`."""
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except OSError as error:
        raise CheckpointFlaw("unreadable", f"{directory} cannot be listed: {error.strerror}.") from error
