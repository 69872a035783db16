"""The contents of GGUF files for comparison: all metadata, and every tensor's type, shape and bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from convert.reader import GgufTensor, read_gguf

__all__ = ["metadata", "tensor_bytes", "tensor_digests"]


def metadata(path: Path) -> dict[str, Any]:
    """Return every key and value, arrays included."""
    return dict(read_gguf(path, arrays="all").metadata)


def tensor_bytes(path: Path, tensor: GgufTensor) -> bytes:
    assert tensor.bytes is not None
    with path.open("rb") as stream:
        stream.seek(tensor.offset)
        return stream.read(tensor.bytes)


def tensor_digests(path: Path) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Return name -> (type, shape, SHA-256 of the data)."""
    return {
        tensor.name: (tensor.type, tensor.shape, hashlib.sha256(tensor_bytes(path, tensor)).hexdigest())
        for tensor in read_gguf(path).tensors
    }
