"""Q8_0, Q5_0, Q5_1, Q4_0 and Q4_1: blocks of 32 with a float16 scale, some with a float16 minimum; no search.

Knows: the fields of ggml's block_q8_0 and so on. A block is what a sub-block is elsewhere: it has a lane.
"""

from __future__ import annotations

from collections.abc import Callable

from convert.kernels.fast_emit import Value
from convert.kernels.fast_lanes import FLOAT_MAX, Column, Group, Vectors, extreme, half

__all__ = ["write_q4_0", "write_q4_1", "write_q5_0", "write_q5_1", "write_q8_0"]

_BELOW_HALF = 0x3EFFFFFF
"""Bits of the largest float below 0.5: adding it and cutting off rounds ties away from zero, as roundf."""

Level = Callable[[int, int], Value]
"""Gives sixteen quants as integers: of a block, from an element on."""


def write_q8_0(group: Group) -> None:
    """block_q8_0: d (float16), 32 quants of 8 bits."""
    _, most = extreme(group.columns(), group.size)
    scale = most / 127.0
    inverses = _put_scale(group, scale, 34)
    for block in range(group.lanes):
        for first in (0, 16):
            value = group.weights(32 * block + first) * inverses.everywhere(0, block)
            nudge = (value.bits() & -0x80000000) | _BELOW_HALF
            group.put((value + nudge.floats()).to_integer().narrow("i8"), 34 * block + 2 + first)


def write_q4_0(group: Group) -> None:
    """block_q4_0: d (float16), 16 bytes of 4-bit quants."""
    _put_nibbles(group, _around_zero(group, 16, 18), 2, 18)


def write_q5_0(group: Group) -> None:
    """block_q5_0: as block_q4_0, with 32 fifth bits after d."""
    _put_nibbles(group, _around_zero(group, 32, 22), 6, 22, fifth=2)


def write_q4_1(group: Group) -> None:
    """block_q4_1: d and m (float16), 16 bytes of 4-bit quants."""
    _put_nibbles(group, _from_minimum(group, 15, 20), 4, 20)


def write_q5_1(group: Group) -> None:
    """block_q5_1: as block_q4_1, with 32 fifth bits after m."""
    _put_nibbles(group, _from_minimum(group, 31, 24), 8, 24, fifth=4)


def _put_scale(group: Group, scale: Value, size: int, minimum: Value | None = None) -> Vectors:
    """Write the float16 fields and the notes; return the inverse scales, and the minimums after them."""
    # A zero, of either sign, has no inverse; what it scales are zeros.
    inverse = scale.differs(0.0).where(1.0 / scale, 0.0)
    kept = group.vectors(2)
    kept.keep(0, inverse)
    bits, _, odd = half(scale)
    odd = odd | (inverse.magnitude() <= FLOAT_MAX).inverted()
    fields = [bits]
    if minimum is not None:
        kept.keep(1, minimum)
        bits, _, too_large = half(minimum)
        odd = odd | too_large
        fields.append(bits)
    group.note(odd)
    for block in range(group.lanes):
        for k, field in enumerate(fields):
            group.put(field.lane(block).narrow("i16"), size * block + 2 * k)
    return kept


def _around_zero(group: Group, levels: int, size: int) -> Level:
    """Quants 0…levels - 1 whose lowest stands for the value of the largest magnitude."""
    value, most = extreme(group.columns(), group.size)
    # Of a block of zeros ggml takes +0, so its scale is -0.
    value = (most > 0.0).where(value, 0.0)
    kept = _put_scale(group, value / (-0.5 * levels), size)

    def level(block: int, first: int) -> Value:
        x = group.weights(32 * block + first) * kept.everywhere(0, block)
        return (x + (0.5 * levels + 0.5)).to_integer().minimum(levels - 1)

    return level


def _from_minimum(group: Group, top: int, size: int) -> Level:
    """Quants 0…top from the smallest value to the largest."""
    low, high = _range(group.columns(), group.size)
    kept = _put_scale(group, (high - low) / float(top), size, low)

    def level(block: int, first: int) -> Value:
        x = (group.weights(32 * block + first) - kept.everywhere(1, block)) * kept.everywhere(0, block)
        return (x + 0.5).to_integer().minimum(top)

    return level


def _range(x: Column, n: int) -> tuple[Value, Value]:
    low = high = x(0)
    for i in range(1, n):
        value = x(i)
        low, high = value.minimum(low), value.maximum(high)
    return low, high


def _put_nibbles(group: Group, level: Level, offset: int, size: int, *, fifth: int | None = None) -> None:
    """Write the low four bits: the first sixteen quants with the last sixteen above them; and fifth bits."""
    for block in range(group.lanes):
        one, two = level(block, 0), level(block, 16)
        byte = (one & 15) | ((two & 15) << 4)
        group.put(byte.narrow("i8"), size * block + offset)
        if fifth is not None:
            for k, part in enumerate((one, two)):
                group.put((part > 15).mask(), size * block + fifth + 2 * k)
