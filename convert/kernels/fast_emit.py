"""Straight-line vector code, written as ordinary Python arithmetic and kept as LLVM's text.

A `Value` is what one instruction computes: a scalar, or a vector with one number for each lane. Its operators
append instructions to their `Code`. Nothing here sets a fast-math flag, so every operation rounds on its own,
in the order written: no fused multiply-add, no reordering.

Knows: LLVM's syntax. Does not know: what is computed, or on which processor.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Union

__all__ = ["Code", "Operand", "Value"]

Operand = Union["Value", int, float]

_FLOAT_OPS = {"+": "fadd", "-": "fsub", "*": "fmul", "/": "fdiv"}
_INTEGER_OPS = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "&": "and",
    "|": "or",
    "^": "xor",
    "<<": "shl",
    ">>": "lshr",
}
# Ordered: false for a NaN, but for the last.
_ORDERS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq"}
_FLOAT_ORDERS = {symbol: f"o{order}" for symbol, order in _ORDERS.items()} | {"!=": "une"}
_INTEGER_ORDERS = {"<": "slt", "<=": "sle", ">": "sgt", ">=": "sge", "==": "eq", "!=": "ne"}


@dataclass(frozen=True, eq=False)
class Value:
    """The result of one instruction, of `lanes` lanes (0 for a scalar)."""

    code: Code
    element: str
    """float, half, i1, i8, i16, i32, i64 or ptr."""
    lanes: int
    name: str

    @property
    def type(self) -> str:
        return f"<{self.lanes} x {self.element}>" if self.lanes else self.element

    def __str__(self) -> str:
        return f"{self.type} {self.name}"

    def __add__(self, other: Operand) -> Value:
        return self._binary("+", other)

    def __sub__(self, other: Operand) -> Value:
        return self._binary("-", other)

    def __mul__(self, other: Operand) -> Value:
        return self._binary("*", other)

    def __truediv__(self, other: Operand) -> Value:
        return self._binary("/", other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self._like(other)._binary("/", self)

    def __and__(self, other: Operand) -> Value:
        return self._binary("&", other)

    def __or__(self, other: Operand) -> Value:
        return self._binary("|", other)

    def __xor__(self, other: Operand) -> Value:
        return self._binary("^", other)

    def __lshift__(self, other: Operand) -> Value:
        return self._binary("<<", other)

    def __rshift__(self, other: Operand) -> Value:
        return self._binary(">>", other)

    def __neg__(self) -> Value:
        return self.code.emit(f"fneg {self}", self.element, self.lanes)

    def __lt__(self, other: Operand) -> Value:
        return self._order("<", other)

    def __le__(self, other: Operand) -> Value:
        return self._order("<=", other)

    def __gt__(self, other: Operand) -> Value:
        return self._order(">", other)

    def __ge__(self, other: Operand) -> Value:
        return self._order(">=", other)

    def same(self, other: Operand) -> Value:
        """Where both are equal (never for a NaN)."""
        return self._order("==", other)

    def differs(self, other: Operand) -> Value:
        """Where they are not equal (always for a NaN)."""
        return self._order("!=", other)

    def inverted(self) -> Value:
        """The opposite of a condition."""
        return self ^ -1

    def where(self, yes: Operand, no: Operand) -> Value:
        """Choose lane by lane: `yes` where this condition holds. One of them must be a `Value`."""
        sample = yes if isinstance(yes, Value) else no
        assert isinstance(sample, Value)
        chosen = [sample._like(value) for value in (yes, no)]
        return self.code.emit(f"select {self}, {chosen[0]}, {chosen[1]}", sample.element, sample.lanes)

    def minimum(self, other: Operand) -> Value:
        """`self < other ? self : other`, which decides what becomes of NaN and -0."""
        return (self < other).where(self, other)

    def maximum(self, other: Operand) -> Value:
        """`self > other ? self : other`."""
        return (self > other).where(self, other)

    def magnitude(self) -> Value:
        """The absolute value of floats."""
        return (self.bits() & 0x7FFFFFFF).floats()

    def bits(self) -> Value:
        """The same 32 bits, as integers."""
        return self._cast("bitcast", "i32")

    def floats(self) -> Value:
        """The same 32 bits, as floats."""
        return self._cast("bitcast", "float")

    def to_float(self) -> Value:
        """Signed integers as floats."""
        return self._cast("sitofp", "float")

    def to_integer(self) -> Value:
        """Floats cut off towards zero, to be of 32 bits."""
        return self._cast("fptosi", "i32")

    def root(self) -> Value:
        """The square root of floats, correctly rounded."""
        name = f"v{self.lanes}f32" if self.lanes else "f32"
        self.code.declare(f"declare {self.type} @llvm.sqrt.{name}({self.type})")
        return self.code.emit(f"call {self.type} @llvm.sqrt.{name}({self})", self.element, self.lanes)

    def narrow(self, element: str) -> Value:
        """The low bits of integers."""
        return self._cast("trunc", element)

    def widen(self, element: str) -> Value:
        """Unsigned integers in more bits."""
        return self._cast("zext", element)

    def lane(self, index: int | Value) -> Value:
        """One lane as a scalar."""
        which = index if isinstance(index, Value) else f"i32 {index}"
        return self.code.emit(f"extractelement {self}, {which}", self.element, 0)

    def shuffle(self, order: Sequence[int], other: Value | None = None) -> Value:
        """The lanes named by `order`; those of `other` are counted on from those of this one."""
        mask = f"<{len(order)} x i32> <{', '.join(f'i32 {index}' for index in order)}>"
        second = other or f"{self.type} poison"
        return self.code.emit(f"shufflevector {self}, {second}, {mask}", self.element, len(order))

    def mask(self) -> Value:
        """A condition as an integer with a bit for each lane, the first lane's lowest."""
        return self.code.emit(f"bitcast {self} to i{self.lanes}", f"i{self.lanes}", 0)

    def any_lane(self) -> Value:
        """Whether a condition holds in some lane."""
        return self.mask().differs(0)

    def splat(self, lanes: int) -> Value:
        """A scalar in every lane."""
        first = self.code.emit(
            f"insertelement <{lanes} x {self.element}> poison, {self}, i32 0", self.element, lanes
        )
        return first.shuffle([0] * lanes)

    def _cast(self, operation: str, element: str) -> Value:
        target = f"<{self.lanes} x {element}>" if self.lanes else element
        return self.code.emit(f"{operation} {self} to {target}", element, self.lanes)

    def _binary(self, symbol: str, other: Operand) -> Value:
        operation = (_FLOAT_OPS if self.element == "float" else _INTEGER_OPS)[symbol]
        return self.code.emit(f"{operation} {self}, {self._like(other).name}", self.element, self.lanes)

    def _order(self, symbol: str, other: Operand) -> Value:
        floats = self.element == "float"
        order = (_FLOAT_ORDERS if floats else _INTEGER_ORDERS)[symbol]
        operation = f"{'fcmp' if floats else 'icmp'} {order}"
        return self.code.emit(f"{operation} {self}, {self._like(other).name}", "i1", self.lanes)

    def _like(self, other: Operand) -> Value:
        return other if isinstance(other, Value) else self.code.constant(other, self.element, self.lanes)


class Code:
    """A function under construction: `void name(ptr, ptr, ptr, i64)`, as `arguments`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lines: list[str] = []
        self._stack: list[str] = []
        self._declared: set[str] = set()
        self._count = 0
        self._block = "entry"
        self.source, self.target, self.notes = (Value(self, "ptr", 0, f"%p{index}") for index in range(3))
        self.count = Value(self, "i64", 0, "%n")

    def text(self) -> str:
        """Return the whole function."""
        arguments = "ptr noalias %p0, ptr noalias %p1, ptr noalias %p2, i64 %n"
        body = "\n".join(["entry:", *self._stack, *self._lines, "  ret void"])
        declared = "".join(f"{text}\n" for text in sorted(self._declared))
        return f"define void @{self._name}({arguments}) {{\n{body}\n}}\n{declared}"

    def emit(self, text: str, element: str, lanes: int) -> Value:
        """Append one instruction and return its result."""
        value = Value(self, element, lanes, self._fresh("%v"))
        self._lines.append(f"  {value.name} = {text}")
        return value

    def constant(self, number: float, element: str, lanes: int) -> Value:
        """A literal; floats are rounded to 32 bits."""
        if element == "float":
            single = struct.unpack("<f", struct.pack("<f", number))[0]
            text = f"0x{struct.unpack('<Q', struct.pack('<d', single))[0]:016X}"
        elif element == "i1":
            text = "true" if number else "false"
        else:
            text = str(int(number))
        return Value(self, element, lanes, f"<{', '.join([f'{element} {text}'] * lanes)}>" if lanes else text)

    def load(self, place: Value, element: str, lanes: int, *, align: int) -> Value:
        """Read from memory at `place`."""
        kind = f"<{lanes} x {element}>" if lanes else element
        return self.emit(f"load {kind}, {place}, align {align}", element, lanes)

    def store(self, value: Value, place: Value, *, align: int) -> None:
        """Write to memory at `place`."""
        self._lines.append(f"  store {value}, {place}, align {align}")

    def at(self, place: Value, offset: Operand) -> Value:
        """The address `offset` bytes after `place`."""
        index = offset if isinstance(offset, Value) else f"i64 {int(offset)}"
        return self.emit(f"getelementptr i8, {place}, {index}", "ptr", 0)

    def stack(self, size: int) -> Value:
        """Memory of `size` bytes that lasts as long as the function runs."""
        value = Value(self, "ptr", 0, self._fresh("%s"))
        self._stack.append(f"  {value.name} = alloca [{size} x i8], align 64")
        return value

    def declare(self, text: str) -> None:
        """Name an intrinsic that is called."""
        self._declared.add(text)

    def lane_numbers(self, lanes: int) -> Value:
        """0, 1, 2, … as i32."""
        return Value(self, "i32", lanes, f"<{', '.join(f'i32 {lane}' for lane in range(lanes))}>")

    def loop(
        self,
        count: Operand,
        carried: Sequence[Value],
        body: Callable[[Value, list[Value]], Sequence[Value]],
        *,
        again: Callable[[Sequence[Value]], Value] | None = None,
    ) -> list[Value]:
        """Run `body(index, carried)` `count` times (at least once), each with what the last one returned.

        With `again` it ends earlier, when that is false of what was returned.
        """
        start, top, done = self._block, self._fresh("again"), self._fresh("done")
        index, following = Value(self, "i64", 0, self._fresh("%i")), self._fresh("%i")
        now = [Value(self, value.element, value.lanes, self._fresh("%c")) for value in carried]
        self._lines += [f"  br label %{top}", f"{top}:"]
        holes = len(self._lines)
        self._block = top
        after = body(index, now)
        end = self._block
        phis = [f"  {index.name} = phi i64 [0, %{start}], [{following}, %{end}]"]
        phis += [
            f"  {value.name} = phi {value.type} [{first.name}, %{start}], [{last.name}, %{end}]"
            for value, first, last in zip(now, carried, after, strict=True)
        ]
        self._lines[holes:holes] = phis
        self._lines.append(f"  {following} = add i64 {index.name}, 1")
        more = Value(self, "i64", 0, following) < count
        if again is not None:
            more = more & again(after)
        self._lines += [f"  br {more}, label %{top}, label %{done}", f"{done}:"]
        self._block = done
        return list(after)

    def _fresh(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"
