"""What every fast kernel needs of vectors: rows turned into lanes, rounding, float16, what lanes share.

A group is a few blocks (of 256 weights, super-blocks, or of 32) that are worked on together. Each of their
sub-blocks has a lane; a block of 32 is its own sub-block.

Does not know: types and their layouts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from convert.kernels.fast_emit import Code, Value

__all__ = [
    "EMPTY",
    "FLOAT_MAX",
    "Column",
    "Group",
    "Vectors",
    "extreme",
    "from_half",
    "half",
    "nearest",
    "nearest_float",
    "over_lanes",
    "transposed",
    "united",
]

EMPTY = 1e-15
"""What is all smaller counts as zero, where ggml says so (GROUP_MAX_EPS)."""
FLOAT_MAX = 3.4028234663852886e38

_ROUNDER = 12582912.0
"""1.5 * 2^23: floats of this size have no fraction, so adding it rounds to an integer, ties to even."""
_TILE = 16
"""Rows and columns that are transposed at a time."""
_NO_HALF = 0x7C00
"""Bits of the float16 infinity."""

Column = Callable[[int], Value]
"""Gives element `i` of every lane's sub-block."""


@dataclass(frozen=True)
class Group:
    """The blocks that one pass of a kernel's loop works on."""

    code: Code
    source: Value
    """Where their weights stand, row-major."""
    dtype: str
    """How they are stored: "BF16", "F16" or "F32"."""
    target: Value
    """Where their blocks go."""
    notes: Value
    """Where a byte for each of them goes: 1 if ggml must do it."""
    lanes: int
    size: int
    """Elements of a sub-block, so of a lane."""
    share: int
    """How many lanes a block has."""

    @property
    def blocks(self) -> int:
        """How many blocks these are."""
        return self.lanes // self.share

    def columns(self) -> Column:
        """Turn the weights into lanes: element `i` of each sub-block side by side."""
        place = self.vectors(self.size)
        for first in range(0, self.size, _TILE):
            tiles = [self._tile(row, first) for row in range(0, self.lanes, _TILE)]
            for i, parts in enumerate(zip(*tiles, strict=True)):
                place.keep(first + i, joined(parts))
        return place

    def _tile(self, row: int, first: int) -> list[Value]:
        return transposed([self.weights((row + i) * self.size + first) for i in range(_TILE)])

    def weights(self, index: int) -> Value:
        """Sixteen neighbouring weights, as float32."""
        if self.dtype == "F32":
            return self.code.load(self.code.at(self.source, 4 * index), "float", _TILE, align=4)
        bits = self.code.load(self.code.at(self.source, 2 * index), "i16", _TILE, align=2).widen("i32")
        return (bits << 16).floats() if self.dtype == "BF16" else from_half(bits)

    def vectors(self, count: int) -> Vectors:
        """Memory for `count` vectors of floats."""
        return Vectors(self.code, self.code.stack(count * self.lanes * 4), self.lanes)

    def put(self, value: Value, offset: int) -> None:
        """Write `value` to the blocks, `offset` bytes from the start of the first."""
        self.code.store(value, self.code.at(self.target, offset), align=1)

    def note(self, odd: Value) -> None:
        """Mark the blocks that have an odd lane."""
        merged = over_lanes(odd, self.share, lambda one, other: one | other)
        for block in range(self.blocks):
            mark = merged.lane(block * self.share).widen("i8")
            self.code.store(mark, self.code.at(self.notes, block), align=1)


@dataclass(frozen=True)
class Vectors:
    """Vectors in memory."""

    code: Code
    place: Value
    lanes: int

    def keep(self, index: int, value: Value) -> Value:
        self.code.store(value, self.code.at(self.place, index * self.lanes * 4), align=64)
        return value

    def __call__(self, index: int) -> Value:
        return self.code.load(self.code.at(self.place, index * self.lanes * 4), "float", self.lanes, align=64)

    def everywhere(self, index: int, lane: int) -> Value:
        """One number of a vector, in sixteen lanes."""
        place = self.code.at(self.place, (index * self.lanes + lane) * 4)
        return self.code.load(place, "float", 0, align=4).splat(_TILE)


def nearest(value: Value) -> Value:
    """ggml's nearest_int, for whatever float: the low bits of a sum, right or wrong."""
    return ((value + _ROUNDER).bits() & 0x7FFFFF) - 0x400000


def nearest_float(value: Value) -> Value:
    """The same as a float, for magnitudes up to 4194303."""
    return (value + _ROUNDER) - _ROUNDER


def half(value: Value) -> tuple[Value, Value, Value]:
    """Round floats to float16, ties to even: (bits, the rounded value as float, where it is too large)."""
    sign = value.bits() & -0x80000000
    size = value.magnitude().minimum(131008.0)
    # Adding 2^13 times the power of two below pushes out exactly the bits that float16 has no room for.
    power = size.bits() & 0x7F800000
    power = power.maximum(113 << 23)
    adder = power + (13 << 23)
    total = size + adder.floats()
    bits = ((power - (113 << 23)) >> 13) + (total.bits() - adder)
    rounded = ((total - adder.floats()).bits() | sign).floats()
    return bits | (sign >> 16) & 0x8000, rounded, bits >= _NO_HALF


def from_half(bits: Value) -> Value:
    """The value of the float16 with these bits, which is finite."""
    # Exponent and fraction in their new places stand for a value 2^112 times smaller, a denormal one too.
    size = ((bits & 0x7FFF) << 13).floats() * 2.0**112
    return (size.bits() | ((bits & 0x8000) << 16)).floats()


def extreme(x: Column, n: int) -> tuple[Value, Value]:
    """The value of the largest magnitude, the first of equals, and that magnitude."""
    first = x(0)
    most = first.magnitude()
    chosen = first
    for i in range(1, n):
        value = x(i)
        size = value.magnitude()
        larger = size > most
        most, chosen = larger.where(size, most), larger.where(value, chosen)
    return chosen, most


def over_lanes(value: Value, share: int, merge: Callable[[Value, Value], Value]) -> Value:
    """Merge each run of `share` lanes, a power of two; every lane of a run gets the result."""
    step = share // 2
    while step:
        value = merge(value, value.shuffle([i ^ step for i in range(value.lanes)]))
        step //= 2
    return value


def joined(parts: tuple[Value, ...]) -> Value:
    """One vector of all the lanes of `parts`."""
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = tuple(one.shuffle(range(2 * one.lanes), other) for one, other in pairs)
    return parts[0]


def united(parts: list[Value]) -> Value:
    """All bits of `parts`."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole | part
    return whole


def transposed(rows: list[Value]) -> list[Value]:
    """Transpose a square matrix: each of log2(n) rounds interleaves the two halves of the rows."""
    n = len(rows)
    low = [lane // 2 + (n if lane % 2 else 0) for lane in range(n)]
    high = [lane + n // 2 for lane in low]
    for _ in range(n.bit_length() - 1):
        rows = [rows[k // 2].shuffle(high if k % 2 else low, rows[k // 2 + n // 2]) for k in range(n)]
    return rows
