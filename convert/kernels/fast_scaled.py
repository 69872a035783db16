"""Q6_K and Q3_K: sub-blocks with a scale alone, a small integer times a float16.

Knows: the fields of ggml's block_q6_K and block_q3_K. Does not know: how a scale is searched.
"""

from __future__ import annotations

from collections.abc import Callable

from convert.kernels.fast_emit import Value
from convert.kernels.fast_lanes import (
    EMPTY,
    FLOAT_MAX,
    Group,
    Vectors,
    half,
    nearest,
    over_lanes,
    transposed,
    united,
)
from convert.kernels.fast_search import search_scale, search_turns

__all__ = ["write_q3", "write_q6"]


class _Rounded:
    """Scales as integers times one float16 for each super-block, which has the sign of the largest one."""

    def __init__(self, group: Group, scale: Value, top: int) -> None:
        size = scale.magnitude()
        size = (size > 0.0).where(size, 0.0)
        self.largest = over_lanes(size, group.share, Value.maximum)
        inverse = -float(top) / _first(group, scale, size.same(self.largest))
        # Where all scales are zero ggml writes zeros.
        used = self.largest > 0.0
        self.level = used.where(nearest(inverse * scale), 0).minimum(top - 1)
        self.half, rounded, too_large = half(used.where(1.0 / inverse, 0.0))
        self.value = rounded * self.level.to_float()
        self.odd = too_large | (inverse.magnitude() <= FLOAT_MAX).inverted() & used


def _first(group: Group, value: Value, chosen: Value) -> Value:
    """In all lanes of a super-block, the value of its first chosen lane."""
    lanes = group.lanes
    order = group.code.lane_numbers(lanes)
    first = over_lanes(chosen.where(order, lanes), group.share, Value.minimum)
    only = order.same(first).where(value.bits(), 0)
    return over_lanes(only, group.share, lambda one, other: one | other).floats()


def write_q6(group: Group) -> None:
    """block_q6_K: 128 bytes of low bits, 64 of high, 16 scales, d (float16)."""
    x = group.columns()
    found = search_scale(group, x, 32)
    scales = _Rounded(group, found.scale, 128)
    blank = scales.largest < EMPTY
    group.note(scales.odd & blank.inverted())
    byte = blank.where(0, scales.level).narrow("i8")
    d = blank.where(0, scales.half)
    kept = group.vectors(3)
    # A blank super-block is all zero bytes: its quants are -32.
    kept.keep(0, blank.where(0.0, scales.value))
    kept.keep(1, blank.where(0.0, found.slope))
    kept.keep(2, blank.where(-32.0, found.shift))
    for block in range(group.blocks):
        group.put(d.lane(16 * block).narrow("i16"), 210 * block + 208)
        group.put(byte.shuffle(range(16 * block, 16 * block + 16)), 210 * block + 192)
        for part in range(2):
            for first in (0, 1):
                subs = [16 * block + 8 * part + 2 * k + first for k in range(4)]
                one, two, three, four = (_six_bits(group, kept, sub) for sub in subs)
                place = 210 * block + 16 * first
                group.put(((one & 15) | ((three & 15) << 4)).narrow("i8"), place + 64 * part)
                group.put(((two & 15) | ((four & 15) << 4)).narrow("i8"), place + 64 * part + 32)
                high = (one >> 4) | ((two >> 4) << 2) | ((three >> 4) << 4) | ((four >> 4) << 6)
                group.put(high.narrow("i8"), place + 128 + 32 * part)


def _six_bits(group: Group, kept: Vectors, sub: int) -> Value:
    """Quants 0…63 by the rounded scale; by the search's slope where the scale was rounded to zero."""
    x = group.weights(sub * group.size)
    scale, slope, shift = (kept.everywhere(k, sub) for k in range(3))
    level = scale.differs(0.0).where(x / scale, slope * x + shift)
    return nearest(level).minimum(31).maximum(-32) + 32


def write_q3(group: Group) -> None:
    """block_q3_K: 32 bytes of high bits, 64 of low, 12 of 6-bit scales, d (float16)."""
    x = group.columns()
    scale, levels = search_turns(group, x, 4)
    scales = _Rounded(group, scale, 32)
    group.note(scales.odd)
    kept = group.vectors(1)
    kept.keep(0, scales.value)
    _put_scales(group, scales)
    quants = _three_bits(group, kept, levels)
    for block in range(group.blocks):
        for first in (0, 1):
            high: list[Value] = []
            for part in range(2):
                four = [quants(16 * block + 8 * part + 2 * k + first) for k in range(4)]
                low = [(value & 3) << (2 * k) for k, value in enumerate(four)]
                place = 110 * block + 16 * first
                group.put(united(low).narrow("i8"), place + 32 + 32 * part)
                high += [(value >> 2) << (4 * part + k) for k, value in enumerate(four)]
            group.put(united(high).narrow("i8"), 110 * block + 16 * first)


def _put_scales(group: Group, scales: _Rounded) -> None:
    """Pack sixteen scales, plus 32, in 12 bytes: the low four bits of two in each, then two bits of four."""
    used = scales.largest > 0.0
    shifted = used.where(scales.level.maximum(-32) + 32, 0)
    low = (shifted & 15) | ((shifted.shuffle([lane ^ 8 for lane in range(group.lanes)]) & 15) << 4)
    high = shifted >> 4
    high = high | (high.shuffle([lane ^ 4 for lane in range(group.lanes)]) << 2)
    high = high | (high.shuffle([lane ^ 8 for lane in range(group.lanes)]) << 4)
    for block in range(group.blocks):
        start = 16 * block
        group.put(low.narrow("i8").shuffle(range(start, start + 8)), 110 * block + 96)
        group.put(high.narrow("i8").shuffle(range(start, start + 4)), 110 * block + 104)
        group.put(scales.half.lane(start).narrow("i16"), 110 * block + 108)


def _three_bits(group: Group, kept: Vectors, levels: Vectors) -> Callable[[int], Value]:
    """Quants 0…7 by the rounded scale; the search's own where the scale was rounded to zero."""
    rows: list[Value] = []
    for first in range(0, group.lanes, 16):
        tile = [levels(i).shuffle(range(first, first + 16)) for i in range(16)]
        rows += transposed(tile)

    def quants(sub: int) -> Value:
        scale = kept.everywhere(0, sub)
        level = scale.differs(0.0).where(group.weights(sub * group.size) / scale, rows[sub])
        return nearest(level).minimum(3).maximum(-4) + 4

    return quants
