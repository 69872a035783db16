"""A tensor as rows that are read block by block, whether it is stored that way or computed.

Whoever writes weights out (a conversion, a merge) reads `Rows` and need not know whether a row lies in a file
or follows from several tensors; so memory stays flat however large the model is. Does not know what a tensor
is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DerivedRows", "Rows", "StoredRows"]


class Rows(Protocol):
    """A tensor of which any run of rows can be read; a vector is one row."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor; the last is the length of a row."""
        ...

    @property
    def dtype(self) -> str:
        """What `read` gives: "BF16" (bits, as uint16), "F16" or "F32"; of stored rows, whatever is stored."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The stored tensors it is made of, for messages."""
        ...

    def read(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        """Return the rows `start` to `stop` as a (stop - start, shape[-1]) matrix, read-only or new."""
        ...


@dataclass(frozen=True, eq=False)
class DerivedRows:
    """What follows from the rows of one tensor; shape and dtype are those unless a class says otherwise."""

    rows: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape

    @property
    def dtype(self) -> str:
        return self.rows.dtype

    @property
    def names(self) -> tuple[str, ...]:
        return self.rows.names


@dataclass(frozen=True, eq=False)
class StoredRows:
    """A tensor as it lies in a file."""

    names: tuple[str, ...]
    dtype: str
    array: np.ndarray[Any, Any]
    """Over the mapped file, no copy."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.array.shape)

    def read(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        return self.array.reshape(-1, self.array.shape[-1])[start:stop]
