"""What happens to the rows of a tensor on their way into a GGUF file: reordered, cut, stacked, shifted.

Each is a view over other rows that computes the block it is asked for and keeps nothing. Does not know which
tensor of which family needs it; the families do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from checkpoint import DerivedRows, Rows
from errors import ConversionError

__all__ = ["as_float32", "computed", "cut", "interleaved", "plus", "stacked", "taken", "to_float32", "turned"]

_Array = np.ndarray[Any, Any]
_Order = np.ndarray[Any, np.dtype[np.intp]]


def taken(rows: Rows, order: _Order) -> Rows:
    """Return the rows of a matrix (the elements of a vector) that `order` names, in its order.

    Neighbours in `order` should be near each other in `rows`: a block is read as one run that spans them.
    """
    return _Taken(rows, order)


def stacked(rows: Sequence[Rows]) -> Rows:
    """Return tensors of one shape and dtype as one tensor with a new first axis, as experts are stored."""
    return _Stacked(tuple(rows))


def cut(rows: Rows, parts: int, start: int, stop: int) -> Rows:
    """Return the rows `start` to `stop` of each of `parts` equal parts of a matrix, as one stack."""
    return _Cut(rows, parts, start, stop)


def turned(rows: Rows) -> Rows:
    """Return a stack of matrices with each transposed; one at a time is in memory."""
    return _Turned(rows)


def as_float32(rows: Rows) -> Rows:
    """Return `rows` widened to float32, which changes no value."""
    return rows if rows.dtype == "F32" else _Shifted(rows, None)


def plus(rows: Rows, addend: float) -> Rows:
    """Return `rows` in float32, each element plus `addend`."""
    return _Shifted(rows, addend)


def computed(values: Sequence[float]) -> Rows:
    """Return a float32 vector that is stored nowhere."""
    return _Computed(np.array([values], np.float32))


def interleaved(count: int, heads: int) -> _Order:
    """Return the order of `count` rows that turns the two halves of each of `heads` heads into neighbouring
    pairs: where Hugging Face rotates halves, llama.cpp's llama rotates pairs.

    Raises `ConversionError` for heads that have no halves.
    """
    if count % (2 * heads):
        raise ConversionError(
            f"{count} rows are not {heads} heads of an even length, which rotary positions need.",
            hint="Compare num_attention_heads, num_key_value_heads and head_dim in config.json with the base "
            "model's.",
        )
    return np.arange(count).reshape(heads, 2, -1).swapaxes(1, 2).reshape(count)


def to_float32(stored: _Array, dtype: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return stored elements ("BF16" bits, "F16", "F32") as float32."""
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)


@dataclass(frozen=True, eq=False)
class _Taken(DerivedRows):
    order: _Order

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.order), *self.rows.shape[1:])

    def read(self, start: int, stop: int) -> _Array:
        if len(self.rows.shape) == 1:
            return self.rows.read(start, stop)[:, self.order]
        wanted = self.order[start:stop]
        if not len(wanted):
            return self.rows.read(0, 0)
        first = int(wanted.min())
        return self.rows.read(first, int(wanted.max()) + 1)[wanted - first]


@dataclass(frozen=True, eq=False)
class _Stacked:
    parts: tuple[Rows, ...]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return (len(self.parts), *self.parts[0].shape)

    @property
    def dtype(self) -> str:
        return self.parts[0].dtype

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.names)

    @cached_property
    def _each(self) -> int:
        """Rows of one part."""
        return int(np.prod(self.parts[0].shape[:-1], dtype=np.int64))

    def read(self, start: int, stop: int) -> _Array:
        blocks = []
        while start < stop:
            part, first = divmod(start, self._each)
            last = min(self._each, first + stop - start)
            blocks.append(self.parts[part].read(first, last))
            start += last - first
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks or [self.parts[0].read(0, 0)])


@dataclass(frozen=True, eq=False)
class _Cut(DerivedRows):
    parts: int
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.parts, self.stop - self.start, self.rows.shape[-1])

    def read(self, start: int, stop: int) -> _Array:
        kept, each = self.stop - self.start, self.rows.shape[0] // self.parts
        blocks = [self.rows.read(0, 0)]
        while start < stop:
            part, first = divmod(start, kept)
            last = min(kept, first + stop - start)
            offset = part * each + self.start
            blocks.append(self.rows.read(offset + first, offset + last))
            start += last - first
        return np.concatenate(blocks)


@dataclass(frozen=True, eq=False)
class _Turned(DerivedRows):
    @property
    def shape(self) -> tuple[int, ...]:
        count, rows, columns = self.rows.shape
        return (count, columns, rows)

    def read(self, start: int, stop: int) -> _Array:
        _, each, rows = self.shape
        blocks = [self.rows.read(0, 0).reshape(0, rows)]
        while start < stop:
            part, first = divmod(start, each)
            last = min(each, first + stop - start)
            blocks.append(self.rows.read(part * rows, (part + 1) * rows).T[first:last])
            start += last - first
        return np.concatenate(blocks)


@dataclass(frozen=True, eq=False)
class _Shifted(DerivedRows):
    addend: float | None

    @property
    def dtype(self) -> str:
        return "F32"

    def read(self, start: int, stop: int) -> _Array:
        values = to_float32(self.rows.read(start, stop), self.rows.dtype)
        return values if self.addend is None else values + np.float32(self.addend)


@dataclass(frozen=True, eq=False)
class _Computed:
    values: np.ndarray[Any, np.dtype[np.float32]]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.values.shape[1],)

    @property
    def dtype(self) -> str:
        return "F32"

    @property
    def names(self) -> tuple[str, ...]:
        return ()

    def read(self, start: int, stop: int) -> _Array:
        return self.values[start:stop]
