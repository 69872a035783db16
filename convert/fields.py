"""The metadata of a GGUF file: typed key-value pairs, and how they are written as bytes.

The format is GGUF version 3, little endian, as described in ggml's docs/gguf.md. Does not know which keys a
model needs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from checkpoint.gguf import ALIGNMENT, MAGIC, ArrayInfo, Kind

__all__ = ["ALIGNMENT", "MAGIC", "VERSION", "Field", "Kind", "StoredField", "boolean", "encode_field"]
__all__ += ["encode_string", "float32", "float32s", "int32s", "string", "strings", "uint32"]

VERSION = 3


_NUMPY = {Kind.INT32: "<i4", Kind.FLOAT32: "<f4"}


@dataclass(frozen=True)
class Field:
    """One key and its value; `element` is the type of an array's items, None for anything else."""

    key: str
    kind: Kind
    value: Any
    element: Kind | None = None

    def as_json(self) -> Any:
        """Return the value; an array as its type and length, for vocabularies are long."""
        if self.element is None:
            return self.value
        return {"type": f"array of {self.element.name.lower()}", "length": len(self.value)}


@dataclass(frozen=True)
class StoredField(Field):
    """A field of another file, written as it stands there."""

    encoded: bytes = b""
    """Key, type and value."""

    @classmethod
    def of(cls, key: str, value: Any, encoded: bytes) -> StoredField:
        """`value` is what a reader made of it, for showing."""
        return cls(key, Kind.STRING, value, None, encoded)

    def as_json(self) -> Any:
        if isinstance(self.value, ArrayInfo):
            return {"type": f"array of {self.value.element}", "length": self.value.length}
        return self.value


def string(key: str, value: str) -> Field:
    return Field(key, Kind.STRING, value)


def uint32(key: str, value: int) -> Field:
    return Field(key, Kind.UINT32, value)


def float32(key: str, value: float) -> Field:
    return Field(key, Kind.FLOAT32, float(value))


def boolean(key: str, value: bool) -> Field:
    return Field(key, Kind.BOOL, bool(value))


def strings(key: str, values: Sequence[str]) -> Field:
    return Field(key, Kind.ARRAY, tuple(values), Kind.STRING)


def int32s(key: str, values: Sequence[int]) -> Field:
    return Field(key, Kind.ARRAY, tuple(values), Kind.INT32)


def float32s(key: str, values: Sequence[float]) -> Field:
    return Field(key, Kind.ARRAY, tuple(values), Kind.FLOAT32)


def encode_string(text: str) -> bytes:
    """Return a GGUF string: its length in bytes as uint64, then UTF-8."""
    # Byte-level vocabularies may hold half a surrogate pair; "surrogatepass" writes what Python read.
    data = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def encode_field(field: Field) -> bytes:
    """Return key, type and value as they stand in the file."""
    if isinstance(field, StoredField):
        return field.encoded
    head = encode_string(field.key) + struct.pack("<I", field.kind)
    if field.element is None:
        return head + _encode(field.kind, field.value)
    head += struct.pack("<IQ", field.element, len(field.value))
    if field.element in _NUMPY:
        return head + np.asarray(field.value, _NUMPY[field.element]).tobytes()
    return head + b"".join(_encode(field.element, item) for item in field.value)


def _encode(kind: Kind, value: Any) -> bytes:
    return encode_string(value) if kind is Kind.STRING else struct.pack(kind.format, value)
