"""The header of a GGUF file: metadata and where each tensor lies, in milliseconds.

Knows version 2 and 3, little endian, as described in ggml's docs/gguf.md. Long arrays (a vocabulary has
150,000 strings) are skipped unless they are asked for. Does not read tensor data, and knows neither what a
key means nor the types of tensors (`convert.read_gguf` does). Made for files of any origin: whatever the
bytes are, the outcome is a summary or a `ConversionError`.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, Protocol

from errors import ConversionError

__all__ = ["ALIGNMENT", "MAGIC", "ArrayInfo", "GgufSummary", "GgufTensor", "Kind", "RowType", "read_header"]

MAGIC = b"GGUF"
ALIGNMENT = 32
_MAX_COUNT = 1 << 24
_MAX_DIMENSIONS = 4
_LIST_WHOLE = 64
"""Arrays of numbers up to this length are always read."""


class Kind(IntEnum):
    """The value types of GGUF."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12

    @property
    def format(self) -> str:
        """The `struct` format of a scalar; strings and arrays have none."""
        return _FORMATS[self]


_FORMATS = {
    Kind.UINT8: "<B",
    Kind.INT8: "<b",
    Kind.UINT16: "<H",
    Kind.INT16: "<h",
    Kind.UINT32: "<I",
    Kind.INT32: "<i",
    Kind.FLOAT32: "<f",
    Kind.BOOL: "<?",
    Kind.UINT64: "<Q",
    Kind.INT64: "<q",
    Kind.FLOAT64: "<d",
}


class RowType(Protocol):
    """How the rows of a tensor are stored: blocks of `block` elements in `block_bytes` bytes each."""

    @property
    def name(self) -> str: ...
    @property
    def block(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...


@dataclass(frozen=True)
class ArrayInfo:
    """An array that was skipped."""

    element: str
    length: int


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies: `shape` rows first, `offset` in the file, `bytes` None if unknown."""

    name: str
    shape: tuple[int, ...]
    type: str
    """"Q4_K"; a type that the reader was not told is "type 23"."""
    offset: int
    bytes: int | None


@dataclass(frozen=True)
class GgufSummary:
    """What the header of a GGUF file says."""

    path: Path
    version: int
    metadata: Mapping[str, Any]
    """Key -> value; an `ArrayInfo` in place of an array that was not asked for."""
    tensors: tuple[GgufTensor, ...]
    size: int
    """Size of the file in bytes."""
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Key -> from where to where key, type and value lie in the file."""

    @property
    def architecture(self) -> str | None:
        return self._text("general.architecture")

    @property
    def name(self) -> str | None:
        return self._text("general.name")

    @property
    def chat_template(self) -> str | None:
        """The Jinja text under tokenizer.chat_template."""
        return self._text("tokenizer.chat_template")

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None


def read_header(
    path: Path,
    arrays: Collection[str] | Literal["all"] = (),
    types: Mapping[int, RowType] | None = None,
) -> GgufSummary:
    """Read the header of `path`; `arrays` names the long arrays to be read as well.

    `types` names the tensor types by their numbers; the size of a tensor of any other type stays unknown.

    Raises `ConversionError` when the file cannot be read, is no GGUF, or is cut off or damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data, arrays, types or {}).summary()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is empty"
        raise ConversionError(
            f"{path} cannot be read as GGUF: {reason or error}.", hint="Give a GGUF file."
        ) from error


class _Reader:
    def __init__(
        self,
        path: Path,
        data: mmap.mmap,
        arrays: Collection[str] | Literal["all"],
        types: Mapping[int, RowType],
    ) -> None:
        self._types = types
        self._path = path
        self._data = data
        self._arrays = arrays
        self._at = 0
        self._size = len(data)

    def summary(self) -> GgufSummary:
        if self._take(4) != MAGIC:
            raise ConversionError(f"{self._path} is not a GGUF file.", hint="Give a file ending in .gguf.")
        version = self._number("<I")
        if version not in {2, 3}:
            raise self._damaged(f"it is of version {version}, of which nothing is known here")
        tensors, fields = self._count("tensors"), self._count("keys")
        metadata: dict[str, Any] = {}
        spans: dict[str, tuple[int, int]] = {}
        for _ in range(fields):
            start = self._at
            key, value = self._field()
            metadata[key], spans[key] = value, (start, self._at)
        infos = [self._tensor_info() for _ in range(tensors)]
        placed = self._placed(infos, self._alignment(metadata))
        return GgufSummary(self._path, version, metadata, placed, self._size, spans)

    def _placed(
        self, infos: list[tuple[str, tuple[int, ...], int, int]], alignment: int
    ) -> tuple[GgufTensor, ...]:
        start = -(-self._at // alignment) * alignment
        return tuple(self._tensor(start, *info) for info in infos)

    def _tensor(self, start: int, name: str, shape: tuple[int, ...], number: int, offset: int) -> GgufTensor:
        kind = self._types.get(number)
        size = None
        if kind is not None:
            elements = 1
            for length in shape:
                elements *= length
            size = elements // kind.block * kind.block_bytes
        if start + offset + (size or 0) > self._size:
            raise self._damaged(f"tensor {name[:80]!r} lies beyond its end")
        return GgufTensor(name, shape, kind.name if kind else f"type {number}", start + offset, size)

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        dimensions = self._number("<I")
        if dimensions > _MAX_DIMENSIONS:
            raise self._damaged(f"tensor {name[:80]!r} has {dimensions} dimensions")
        shape = tuple(reversed([self._number("<Q") for _ in range(dimensions)]))
        return name, shape, self._number("<I"), self._number("<Q")

    def _field(self) -> tuple[str, Any]:
        key = self._text()
        kind = self._kind()
        return key, self._array(key) if kind is Kind.ARRAY else self._value(kind)

    def _array(self, key: str) -> Any:
        element, length = self._kind(), self._number("<Q")
        if element is Kind.ARRAY or length > self._size:
            raise self._damaged(f"the array {key[:80]!r} cannot be right")
        wanted = self._arrays == "all" or key in self._arrays
        if element is Kind.STRING:
            if wanted:
                return [self._text() for _ in range(length)]
            for _ in range(length):
                self._skip(self._number("<Q"))
            return ArrayInfo("string", length)
        width = struct.calcsize(element.format)
        if not wanted and length > _LIST_WHOLE:
            self._skip(width * length)
            return ArrayInfo(element.name.lower(), length)
        return list(struct.unpack(f"<{length}{element.format[1]}", self._take(width * length)))

    def _value(self, kind: Kind) -> Any:
        return self._text() if kind is Kind.STRING else self._number(kind.format)

    def _kind(self) -> Kind:
        number = self._number("<I")
        try:
            return Kind(number)
        except ValueError:
            raise self._damaged(f"a value has the unknown type {number}") from None

    def _count(self, what: str) -> int:
        count: int = self._number("<Q")
        if count > min(self._size, _MAX_COUNT):
            raise self._damaged(f"it claims to hold {count} {what}")
        return count

    def _alignment(self, metadata: Mapping[str, Any]) -> int:
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment <= 0 or alignment > _MAX_COUNT:
            raise self._damaged(f"its alignment is {alignment!r}")
        return alignment

    def _text(self) -> str:
        return self._take(self._number("<Q")).decode("utf-8", "replace")

    def _number(self, form: str) -> Any:
        try:
            (value,) = struct.unpack_from(form, self._data, self._at)
        except struct.error:
            raise self._damaged("it ends too early") from None
        self._at += struct.calcsize(form)
        return value

    def _take(self, length: int) -> bytes:
        start = self._at
        self._skip(length)
        return self._data[start : self._at]

    def _skip(self, length: int) -> None:
        if length > self._size - self._at:
            raise self._damaged("it ends too early")
        self._at += length

    def _damaged(self, what: str) -> ConversionError:
        return ConversionError(
            f"{self._path} is a damaged GGUF file: {what}.", hint="Copy, fetch or make it again."
        )
