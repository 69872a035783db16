"""A GGUF file written as a stream: header, metadata and tensor infos first, then the data in order.

Knows the layout of the file; every size is known before the first byte is written. Does not know where the
data comes from. SHA-256 is computed on the way through, so the finished file is not read again.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from convert.fields import ALIGNMENT, MAGIC, VERSION, Field, encode_field, encode_string
from convert.types import TensorType
from errors import OutputError

__all__ = ["GgufStream", "OutputTensor", "aligned", "file_size", "header"]


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of a file: `shape` as in the checkpoint (rows first; GGUF lists it the other way round)."""

    name: str
    shape: tuple[int, ...]
    type: TensorType

    @property
    def row(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        count = 1
        for size in self.shape[:-1]:
            count *= size
        return count

    @property
    def bytes(self) -> int:
        return self.rows * self.type.row_bytes(self.row)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "shape": list(self.shape),
            "type": self.type.name.lower(),
            "bytes": self.bytes,
        }


def aligned(size: int) -> int:
    """Return `size` rounded up to the file's alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def header(fields: Sequence[Field], tensors: Sequence[OutputTensor]) -> bytes:
    """Return everything before the tensor data, padding included."""
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(fields))]
    parts += [encode_field(field) for field in fields]
    offset = 0
    for tensor in tensors:
        dimensions = tuple(reversed(tensor.shape))
        parts.append(encode_string(tensor.name))
        parts.append(struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions))
        parts.append(struct.pack("<IQ", tensor.type.number, offset))
        offset += aligned(tensor.bytes)
    data = b"".join(parts)
    return data.ljust(aligned(len(data)), b"\0")


def file_size(fields: Sequence[Field], tensors: Sequence[OutputTensor]) -> int:
    """Return the size in bytes of the whole file."""
    return len(header(fields, tensors)) + sum(aligned(tensor.bytes) for tensor in tensors)


class GgufStream:
    """Writes one file's bytes in order, hashing them. `path` is the final name, for messages."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: Any) -> None:
        """Write a buffer of bytes. Raises `OutputError` where the system refuses."""
        try:
            self._stream.write(data)
        except OSError as error:
            raise OutputError(
                f"Cannot write {self._path}: {error.strerror or error} after {self.bytes:,} bytes.",
                hint="Free some space or choose another place with -o; nothing was left under the final "
                "name.",
            ) from error
        self._digest.update(data)
        self.bytes += len(data)

    def pad(self) -> None:
        """Write zeros up to the next aligned offset."""
        self.write(bytes(aligned(self.bytes) - self.bytes))

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of what was written so far."""
        return self._digest.hexdigest()
