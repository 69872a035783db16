"""The searches for a sub-block's scale, many sub-blocks side by side.

Each lane does what ggml's loop does, in the same order, and so arrives at the same bits.

ggml's names for the three are make_qkx2_quants (scale and minimum), make_qx_quants (scale alone) and
make_q3_quants (scale and quants in turn). Where ggml keeps the best quants, two of these keep what computes
them again: they are wanted only where a super-block's rounded scale is zero.

Does not know: types and their layouts (fast_affine.py, fast_scaled.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from convert.kernels.fast_emit import Value
from convert.kernels.fast_lanes import EMPTY, Column, Group, Vectors, extreme, nearest, nearest_float

__all__ = ["Affine", "AffineSteps", "Scaled", "search_affine", "search_scale", "search_turns"]

_EXACT = 4194303.0
"""Up to here nearest_float is what ggml does with bits."""


@dataclass(frozen=True)
class AffineSteps:
    """Which slopes search_affine tries, after a first guess."""

    top: int
    """Quants are 0…top."""
    first: float
    step: float
    steps: int
    mad: bool
    """Errors are absolute, not squared."""


@dataclass(frozen=True)
class Affine:
    """What search_affine found, lane by lane. Quants are round(slope * (x - low))."""

    scale: Value
    minimum: Value
    """What is subtracted, so it is not negative."""
    slope: Value
    low: Value
    odd: Value
    """Lanes that went beyond what the vectors can say; their super-block must be done by ggml."""


@dataclass(frozen=True)
class Scaled:
    """What search_scale found, lane by lane. Quants are round(slope * x + shift)."""

    scale: Value
    slope: Value
    shift: Value


def search_affine(group: Group, x: Column, weight: Column, plan: AffineSteps) -> Affine:
    """Find scale and minimum: a first guess, then `plan.steps` + 1 slopes around it."""
    low, high, sum_w, sum_x = _sums(x, weight, group.size)
    task = _Affine(group, x, weight, plan, low, high, sum_w, sum_x, group.vectors(group.size))
    start_low = low = (low > 0.0).where(0.0, low)
    flat = high.same(low)
    slope = plan.top / (high - low)
    scale = 1.0 / slope
    for i in range(group.size):
        task.level(i, x(i), slope, low)
    guess = [scale, low, slope, low, task.error(scale, low), task.odd(slope, low)]
    scale, low, slope, kept_low, _, odd = group.code.loop(plan.steps + 1, guess, task.attempt)
    # A flat sub-block has quants of zero; whatever was computed for it does not count.
    return Affine(
        flat.where(0.0, scale),
        -flat.where(start_low, low),
        flat.where(0.0, slope),
        flat.where(0.0, kept_low),
        odd & flat.inverted(),
    )


@dataclass(frozen=True)
class _Affine:
    """One search_affine at work."""

    group: Group
    x: Column
    weight: Column
    plan: AffineSteps
    least: Value
    most: Value
    sum_w: Value
    sum_x: Value
    levels: Vectors

    def attempt(self, index: Value, best: list[Value]) -> list[Value]:
        """Try one more slope. `low` moves on whenever an attempt is better, as in ggml."""
        scale, low, kept_slope, kept_low, least_error, odd = best
        factor = index.narrow("i32").to_float() * self.plan.step + self.plan.first + self.plan.top
        slope = factor.splat(self.group.lanes) / (self.most - low)
        new_scale, new_low, solvable = self.regression(slope, low)
        new_error = self.error(new_scale, new_low)
        better = solvable & (new_error < least_error)
        return [
            better.where(new_scale, scale),
            better.where(new_low, low),
            better.where(slope, kept_slope),
            better.where(low, kept_low),
            better.where(new_error, least_error),
            odd | self.odd(slope, low),
        ]

    def level(self, i: int, x: Value, slope: Value, low: Value) -> Value:
        """Compute and keep the quants of element `i`, as floats."""
        level = nearest_float(slope * (x - low)).minimum(self.plan.top).maximum(0.0)
        return self.levels.keep(i, level)

    def odd(self, slope: Value, low: Value) -> Value:
        """Where an element is out of nearest_float's reach."""
        # Rounding is monotonic, so the extremes bound every element. A NaN is not below the bound.
        reach = [(slope * (end - low)).magnitude() <= _EXACT for end in (self.least, self.most)]
        return (reach[0] & reach[1]).inverted()

    def error(self, scale: Value, low: Value) -> Value:
        """The weighted sum of distances of the kept quants."""
        total = None
        for i in range(self.group.size):
            miss = scale * self.levels(i) + low - self.x(i)
            part = self.weight(i) * (miss.magnitude() if self.plan.mad else miss * miss)
            total = part if total is None else total + part
        assert total is not None
        return total

    def regression(self, slope: Value, low: Value) -> tuple[Value, Value, Value]:
        """Weighted least squares on new quants: scale, minimum (not above 0), where it is solvable."""
        sums: list[Value] = []
        for i in range(self.group.size):
            value = self.x(i)
            level = self.level(i, value, slope, low)
            part = self.weight(i) * level
            parts = [part, part * level, part * value]
            sums = [one + more for one, more in zip(sums, parts, strict=True)] if sums else parts
        sum_l, sum_l2, sum_xl = sums
        determinant = self.sum_w * sum_l2 - sum_l * sum_l
        scale = (self.sum_w * sum_xl - self.sum_x * sum_l) / determinant
        new_low = (sum_l2 * self.sum_x - sum_l * sum_xl) / determinant
        above = new_low > 0.0
        return above.where(sum_xl / sum_l2, scale), above.where(0.0, new_low), determinant > 0.0


def _sums(x: Column, weight: Column, n: int) -> tuple[Value, Value, Value, Value]:
    """Smallest and largest value, sum of weights, weighted sum of values."""
    low = high = value = x(0)
    sum_w = weight(0)
    sum_x = sum_w * value
    for i in range(1, n):
        value, part = x(i), weight(i)
        low, high = value.minimum(low), value.maximum(high)
        sum_w = sum_w + part
        sum_x = sum_x + part * value
    return low, high, sum_w, sum_x


def search_scale(group: Group, x: Column, top: int) -> Scaled:
    """Find the scale for quants -top…top-1, weighted by squares: a first guess and 18 slopes around it."""
    size, code = group.size, group.code
    end, most = extreme(x, size)
    empty = most < EMPTY
    weights, products = group.vectors(size), group.vectors(size)
    for i in range(size):
        value = x(i)
        products.keep(i, weights.keep(i, value * value) * value)

    def sums(slope: Value) -> list[Value]:
        """Sums of weight * x * level and of weight * level * level."""
        total: list[Value] = []
        for i in range(size):
            level = nearest_float(slope * x(i)).minimum(top - 1.0).maximum(-top)
            parts = [products(i) * level, weights(i) * level * level]
            total = [one + more for one, more in zip(total, parts, strict=True)] if total else parts
        return total

    def attempt(index: Value, best: list[Value]) -> list[Value]:
        # -9…-1, then 1…9: the first guess was 0.
        number = index.narrow("i32") - 9
        number = (number < 0).where(number, number + 1)
        factor = -(number.to_float() * 0.1 + top)
        slope = factor.splat(group.lanes) / end
        sum_lx, sum_l2 = sums(slope)
        better = (sum_l2 > 0.0) & (sum_lx * sum_lx > best[2] * sum_l2)
        scale = sum_lx / sum_l2
        return [better.where(new, old) for new, old in zip((scale, slope, scale * sum_lx), best, strict=True)]

    slope = -float(top) / end
    sum_lx, sum_l2 = sums(slope)
    scale = sum_l2.differs(0.0).where(sum_lx / sum_l2, 0.0)
    scale, slope, _ = code.loop(18, [scale, slope, scale * sum_lx], attempt)
    shift = empty.where(code.constant(-top, "float", group.lanes), 0.0)
    return Scaled(empty.where(0.0, scale), empty.where(0.0, slope), shift)


def search_turns(group: Group, x: Column, top: int) -> tuple[Value, Vectors]:
    """Find scale and quants -top…top-1 in turn: each element takes the best quant for all the others'.

    Up to five rounds; a round that changes nothing would repeat itself, so it needs no mask of its own.
    """
    size, code = group.size, group.code
    end, most = extreme(x, size)
    empty = most < EMPTY
    weights, products, levels = group.vectors(size), group.vectors(size), group.vectors(size)
    slope = -float(top) / end
    sums: list[Value] = []
    for i in range(size):
        value = x(i)
        weight = weights.keep(i, value * value)
        product = products.keep(i, weight * value)
        level = levels.keep(i, nearest(slope * value).minimum(top - 1).maximum(-top).to_float())
        parts = [product * level, weight * level * level]
        sums = [one + more for one, more in zip(sums, parts, strict=True)] if sums else parts

    def turn(_: Value, before: list[Value]) -> list[Value]:
        sum_lx, sum_l2, changed = *before[:2], none
        for i in range(size):
            weight, product, level = weights(i), products(i), levels(i)
            rest_lx = sum_lx - product * level
            rest_l2 = sum_l2 - weight * level * level
            new = nearest(x(i) * rest_l2 / rest_lx).minimum(top - 1).maximum(-top).to_float()
            new_lx = rest_lx + product * new
            new_l2 = rest_l2 + weight * new * new
            better = (rest_lx > 0.0) & new.differs(level) & (new_l2 > 0.0)
            better = better & (new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2)
            levels.keep(i, better.where(new, level))
            sum_lx, sum_l2 = better.where(new_lx, sum_lx), better.where(new_l2, sum_l2)
            changed = changed | better
        return [sum_lx, sum_l2, changed]

    none = code.constant(0, "i1", group.lanes)
    sum_lx, sum_l2, _ = code.loop(5, [*sums, none], turn, again=lambda after: after[2].any_lane())
    for i in range(size):
        levels.keep(i, empty.where(-float(top), levels(i)))
    solved = (sum_l2 > 0.0) & empty.inverted()
    return solved.where(sum_lx / sum_l2, 0.0), levels
