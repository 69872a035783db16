"""Q4_K, Q5_K and Q2_K: sub-blocks with a scale and a minimum, both small integers times a float16.

Knows: the fields of ggml's block_q4_K, block_q5_K and block_q2_K. Does not know: how a scale is searched.
"""

from __future__ import annotations

from collections.abc import Callable

from convert.kernels.fast_emit import Value
from convert.kernels.fast_lanes import FLOAT_MAX, Column, Group, Vectors, half, nearest, over_lanes, united
from convert.kernels.fast_search import Affine, AffineSteps, search_affine

__all__ = ["write_q2", "write_q4", "write_q5"]

_Q2 = AffineSteps(top=3, first=-0.5, step=0.1, steps=15, mad=True)
_Q4 = AffineSteps(top=15, first=-1.0, step=0.1, steps=20, mad=False)
_Q5 = AffineSteps(top=31, first=-0.5, step=0.1, steps=15, mad=False)

Quants = Callable[[int, int], Value]
"""Gives sixteen quants as integers: of a sub-block, from an element on."""


def write_q4(group: Group) -> None:
    """block_q4_K: d, dmin (float16), 12 bytes of 6-bit scales and minimums, 128 of 4-bit quants."""
    quants = _quantized_32(group, _Q4, 144)
    for block in range(group.blocks):
        for pair in range(4):
            sub = 8 * block + 2 * pair
            for first in (0, 16):
                byte = quants(sub, first) | (quants(sub + 1, first) << 4)
                group.put(byte.narrow("i8"), 144 * block + 16 + 32 * pair + first)


def write_q5(group: Group) -> None:
    """block_q5_K: as block_q4_K, with 32 bytes of fifth bits before the low four."""
    quants = _quantized_32(group, _Q5, 176)
    for block in range(group.blocks):
        for first in (0, 16):
            fifth: list[Value] = []
            for pair in range(4):
                sub = 8 * block + 2 * pair
                one, two = quants(sub, first), quants(sub + 1, first)
                byte = (one & 15) | ((two & 15) << 4)
                group.put(byte.narrow("i8"), 176 * block + 48 + 32 * pair + first)
                fifth += [(one >> 4) << (2 * pair), (two >> 4) << (2 * pair + 1)]
            group.put(united(fifth).narrow("i8"), 176 * block + 16 + first)


def write_q2(group: Group) -> None:
    """block_q2_K: 16 bytes of 4-bit scales and minimums, 64 of 2-bit quants, d, dmin (float16)."""
    x = group.columns()
    weights = group.vectors(group.size)
    for i in range(group.size):
        weights.keep(i, x(i).magnitude())
    found = search_affine(group, x, weights, _Q2)
    scales, minimums = _levels(group, found, 15)
    byte = (scales.level | (minimums.level << 4)).narrow("i8")
    for block in range(group.blocks):
        _put_halves(group, (scales, minimums), block, 84 * block + 80)
        group.put(byte.shuffle(range(16 * block, 16 * block + 16)), 84 * block)
    quants = _requantized(group, _Q2.top, found, scales.value, minimums.value)
    for block in range(group.blocks):
        for part in range(2):
            for first in (0, 1):
                subs = [16 * block + 8 * part + 2 * k + first for k in range(4)]
                byte = united([quants(sub, 0) << (2 * k) for k, sub in enumerate(subs)])
                group.put(byte.narrow("i8"), 84 * block + 16 + 32 * part + 16 * first)


def _quantized_32(group: Group, plan: AffineSteps, size: int) -> Quants:
    """Search and write everything but the quants of Q4_K and Q5_K; return the quants."""
    x = group.columns()
    found = search_affine(group, x, _weights(group, x), plan)
    scales, minimums = _levels(group, found, 63)
    for block in range(group.blocks):
        _put_halves(group, (scales, minimums), block, size * block)
    _put_six_bits(group, scales.level, minimums.level, size)
    return _requantized(group, plan.top, found, scales.value, minimums.value)


def _weights(group: Group, x: Column) -> Vectors:
    """The weight of an element: the root mean square of its sub-block plus its magnitude."""
    total = x(0) * x(0)
    for i in range(1, group.size):
        value = x(i)
        total = total + value * value
    mean = (total / float(group.size)).root()
    weights = group.vectors(group.size)
    for i in range(group.size):
        weights.keep(i, mean + x(i).magnitude())
    return weights


class _Rounded:
    """Scales, or minimums, as integers times one float16 for each super-block."""

    def __init__(self, group: Group, value: Value, top: int) -> None:
        largest = over_lanes(value.maximum(0.0), group.share, Value.maximum)
        inverse = (largest > 0.0).where(float(top) / largest, 0.0)
        self.level = nearest(inverse * value)
        """0…top in each lane, unless the lane is odd."""
        self.half, rounded, too_large = half(largest / float(top))
        self.value = rounded * self.level.to_float()
        self.odd = too_large | (inverse <= FLOAT_MAX).inverted() | (value >= 0.0).inverted()


def _levels(group: Group, found: Affine, top: int) -> tuple[_Rounded, _Rounded]:
    scales, minimums = (_Rounded(group, value, top) for value in (found.scale, found.minimum))
    group.note(found.odd | scales.odd | minimums.odd)
    return scales, minimums


def _put_halves(group: Group, fields: tuple[_Rounded, _Rounded], block: int, offset: int) -> None:
    for k, field in enumerate(fields):
        group.put(field.half.lane(group.share * block).narrow("i16"), offset + 2 * k)


def _put_six_bits(group: Group, scales: Value, minimums: Value, size: int) -> None:
    """Pack eight scales and minimums in 12 bytes: 0…3 in bytes of their own, 4…7 around them."""
    swap = [lane ^ 4 for lane in range(group.lanes)]
    later = [value.shuffle(swap) for value in (scales, minimums)]
    words = [
        scales | ((later[0] >> 4) << 6),
        minimums | ((later[1] >> 4) << 6),
        (later[0] & 15) | ((later[1] & 15) << 4),
    ]
    for block in range(group.blocks):
        for k, word in enumerate(words):
            four = word.narrow("i8").shuffle(range(8 * block, 8 * block + 4))
            group.put(four, size * block + 4 + 4 * k)


def _requantized(group: Group, top: int, found: Affine, scale: Value, minimum: Value) -> Quants:
    """Quants by the rounded scale and minimum; by the search's where the scale was rounded to zero."""
    kept = group.vectors(4)
    for k, value in enumerate((scale, minimum, found.slope, found.low)):
        kept.keep(k, value)

    def quants(sub: int, first: int) -> Value:
        x = group.weights(sub * group.size + first)
        scale, minimum, slope, low = (kept.everywhere(k, sub) for k in range(4))
        level = scale.differs(0.0).where((x + minimum) / scale, slope * (x - low))
        return nearest(level).minimum(top).maximum(0)

    return quants
