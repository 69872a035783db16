"""Weights as `torch.save` writes them (`pytorch_model.bin`), without torch and without running anything.

A file is a zip archive of stored, not compressed, entries. `NAME/data.pkl` describes the tensors
(torch_pickle reads it), `NAME/data/KEY` holds the elements of each storage, and `NAME/byteorder`, where there
is one, says "little". So a tensor is a run of bytes in the file, and can be mapped like one of a safetensors
file.

Does not know what the tensors mean. No tensor is read here.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from checkpoint.findings import CheckpointFlaw
from checkpoint.jsonfile import file_size
from checkpoint.safetensors import DTYPE_BITS, Header, TensorInfo
from checkpoint.torch_pickle import Forbidden, StoredTensor, read_state_dict

__all__ = ["read_torch_header"]

_LARGEST_PICKLE = 64 << 20
_MOST_ENTRIES = 200_000
_LEGACY = b"\x80\x02\x8a\n"
"""Beginning of the format before torch 1.6: a pickle of a magic number."""
_SAVE_AGAIN = (
    "Save the weights as safetensors where you trust the file: `AutoModelForCausalLM.from_pretrained(DIR, "
    'dtype="auto").save_pretrained(NEW_DIR)`, and copy the tokenizer files.'
)
_FETCH_AGAIN = "The file is incomplete or damaged: copy or fetch it again, or save the checkpoint again."

_Entries = Mapping[str, tuple[int, int]]
"""Name of an entry below the archive's directory -> (offset of its bytes in the file, their number)."""


def read_torch_header(path: Path) -> Header:
    """Read and check what the torch file `path` holds. Raises `CheckpointFlaw` for every defect."""
    size = file_size(path)
    if size is None:
        raise CheckpointFlaw("shard-missing", f"{path} does not exist.", hint=_FETCH_AGAIN)
    try:
        with path.open("rb") as stream:
            _check_kind(path, stream)
            entries = _entries(path, stream, size)
            program = _program(path, stream, entries)
    except (OSError, zipfile.BadZipFile, struct.error, ValueError, NotImplementedError) as error:
        raise _damaged(path, str(error) or type(error).__name__) from error
    try:
        described = read_state_dict(program)
    except Forbidden as error:
        raise CheckpointFlaw(
            "pickle-refused",
            f"{path} is not read: its pickle {error}.",
            hint="Do not load this file with torch either, unless you know who made it: a pickle can run any "
            "program.",
        ) from error
    tensors = {name: _info(path, name, tensor, entries) for name, tensor in described.items()}
    digest = hashlib.sha256(program + repr(sorted(entries.items())).encode()).hexdigest()
    return Header(path, size, digest, {}, tensors)


def _check_kind(path: Path, stream: BinaryIO) -> None:
    start = stream.read(64)
    if start.startswith(b"version "):
        raise CheckpointFlaw(
            "git-lfs-pointer",
            f"{path} is a Git LFS pointer, not the weights.",
            hint="Run `git lfs pull` in the checkpoint's repository.",
        )
    if start.startswith(_LEGACY):
        raise CheckpointFlaw(
            "torch-legacy",
            f"{path} is in torch's format from before version 1.6, which Portside does not read.",
            hint=_SAVE_AGAIN,
        )


def _entries(path: Path, stream: BinaryIO, size: int) -> _Entries:
    with zipfile.ZipFile(stream) as archive:
        infos = archive.infolist()
    if len(infos) > _MOST_ENTRIES:
        raise _damaged(path, f"it has {len(infos):,} entries")
    entries: dict[str, tuple[int, int]] = {}
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise _damaged(path, f"its entry {info.filename[:60]!r} is compressed or encrypted")
        name = info.filename.partition("/")[2]
        if name in entries:
            raise _damaged(path, f"its entry {info.filename[:60]!r} occurs twice")
        begin = _data_offset(stream, info.header_offset)
        if begin + info.file_size > size:
            raise CheckpointFlaw(
                "shard-truncated",
                f"{path} is cut short: its entry {info.filename[:60]!r} ends behind the file.",
                hint=_FETCH_AGAIN,
            )
        entries[name] = begin, info.file_size
    return entries


def _data_offset(stream: BinaryIO, header: int) -> int:
    """Return where an entry's bytes begin: behind its local header, its name and its extra field."""
    stream.seek(header)
    local = stream.read(30)
    signature, name, extra = struct.unpack("<4s22xHH", local)
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile("an entry has no local header")
    return header + 30 + int(name) + int(extra)


def _program(path: Path, stream: BinaryIO, entries: _Entries) -> bytes:
    if "data.pkl" not in entries:
        raise _damaged(path, "it has no data.pkl")
    if "byteorder" in entries and _content(stream, entries["byteorder"], 16) != b"little":
        raise CheckpointFlaw(
            "torch-big-endian", f"{path} was written on a big-endian machine.", hint=_SAVE_AGAIN
        )
    if entries["data.pkl"][1] > _LARGEST_PICKLE:
        raise _damaged(path, f"its pickle has {entries['data.pkl'][1]:,} bytes")
    return _content(stream, entries["data.pkl"], _LARGEST_PICKLE)


def _content(stream: BinaryIO, place: tuple[int, int], limit: int) -> bytes:
    stream.seek(place[0])
    return stream.read(min(place[1], limit))


def _info(path: Path, name: str, tensor: StoredTensor, entries: _Entries) -> TensorInfo:
    storage = tensor.storage
    place = entries.get(f"data/{storage.key}")
    if place is None:
        raise _damaged(path, f"tensor {name} lies in the storage {storage.key!r}, which is not there")
    width = DTYPE_BITS[tensor.dtype] // 8
    elements = math.prod(tensor.shape)
    if elements and not _contiguous(tensor):
        raise CheckpointFlaw(
            "tensor-strided",
            f"Tensor {name} in {path} is stored as a view with gaps (shape {tensor.shape}, strides "
            f"{tensor.strides}).",
            hint="Save it with `.contiguous()`, or the checkpoint as safetensors.",
        )
    held = storage.elements * (DTYPE_BITS[storage.dtype] // 8 if storage.dtype else 1)
    begin, end = tensor.offset * width, (tensor.offset + elements) * width
    if held > place[1] or (elements and end > held):
        raise _damaged(path, f"tensor {name} reaches behind its storage")
    return TensorInfo(name, tensor.dtype, tensor.shape, path, place[0] + begin, place[0] + end)


def _contiguous(tensor: StoredTensor) -> bool:
    step = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _damaged(path: Path, reason: str) -> CheckpointFlaw:
    return CheckpointFlaw("shard-damaged", f"{path} is not a sound torch file: {reason}.", hint=_FETCH_AGAIN)
