"""Quantization several times faster than ggml's, byte for byte the same.

ggml searches the scale of one sub-block after the other. Here each lane of a vector searches one, with the
same operations in the same order, so it finds the same bits. Where a lane leaves the range in which that
holds (values near the ends of float32), the whole block is handed to ggml; so is every other type.

Knows: which types have a fast kernel, and that each agrees with this machine's ggml before it is used.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.kernels.fast_affine import write_q2, write_q4, write_q5
from convert.kernels.fast_build import Compiler, Function, load_compiler
from convert.kernels.fast_emit import Code, Value
from convert.kernels.fast_lanes import Group
from convert.kernels.fast_scaled import write_q3, write_q6
from convert.kernels.fast_simple import write_q4_0, write_q4_1, write_q5_0, write_q5_1, write_q8_0
from convert.kernels.ggml import Ggml, load_ggml
from convert.kernels.stored import STORED_BYTES, Stored
from convert.types import TensorType, tensor_type
from errors import EngineMissing

__all__ = ["FAST_TYPES", "Fast", "function_name", "kernel_text", "load_fast"]

_Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_PROBE = 64
"""Blocks on which a kernel must agree with ggml before it is used: about a millisecond."""


@dataclass(frozen=True)
class _Design:
    """How a kernel is laid out."""

    write: Callable[[Group], None]
    size: int
    """Elements of a sub-block."""
    lanes: int
    """Sub-blocks side by side, as measured best where registers hold up to eight floats …"""
    wide_lanes: int
    """… and where they hold sixteen."""


_DESIGNS = {
    "Q2_K": _Design(write_q2, 16, 16, 32),
    "Q3_K": _Design(write_q3, 16, 32, 64),
    "Q4_K": _Design(write_q4, 32, 16, 16),
    "Q5_K": _Design(write_q5, 32, 16, 16),
    "Q6_K": _Design(write_q6, 16, 16, 16),
    "Q4_0": _Design(write_q4_0, 32, 16, 16),
    "Q4_1": _Design(write_q4_1, 32, 16, 16),
    "Q5_0": _Design(write_q5_0, 32, 16, 16),
    "Q5_1": _Design(write_q5_1, 32, 16, 16),
    "Q8_0": _Design(write_q8_0, 32, 16, 16),
}
FAST_TYPES = tuple(_DESIGNS)
_UNWEIGHTED = ("Q8_0",)
"""ggml looks for no better scale here, so weights change nothing."""


def kernel_text(name: str, dtype: str, *, wide: bool) -> tuple[str, int]:
    """Return LLVM assembly of the kernel for type `name` ("Q4_K") and the least number of blocks it takes.

    The function, called as `function_name` says, is void(weights, blocks, notes, count): weights stored as
    `dtype` become `count` blocks, and a byte of `notes` for each, which is 1 where the block is not to be
    used.
    """
    design, kind = _DESIGNS[name], tensor_type(name)
    lanes = design.wide_lanes if wide else design.lanes
    code = Code(function_name(name, dtype))
    share = kind.block // design.size
    least = lanes // share

    def one_group(index: Value, _: list[Value]) -> list[Value]:
        # The last group reaches back over blocks that are done already, rather than past the end.
        start = (index * least).minimum(code.count - least)
        source = code.at(code.source, start * (STORED_BYTES[dtype] * kind.block))
        target = code.at(code.target, start * kind.block_bytes)
        notes = code.at(code.notes, start)
        design.write(Group(code, source, dtype, target, notes, lanes, design.size, share))
        return []

    groups = (code.count + (least - 1)) >> (least.bit_length() - 1)
    code.loop(groups, [], one_group)
    return code.text(), least


def function_name(name: str, dtype: str) -> str:
    """Return what a kernel's function is called."""
    return f"{name}_from_{dtype}"


class Fast:
    """The same functions as `Ggml`, with `Ggml` behind them for what they do not do themselves.

    With `forced`, a kernel that does not agree with ggml on this machine is an `EngineMissing`; otherwise
    ggml does its work. Arrays are C-contiguous; shapes are (rows, row length).
    """

    def __init__(self, compiler: Compiler, ggml: Ggml, *, forced: bool) -> None:
        self._compiler = compiler
        self._ggml = ggml
        self._forced = forced
        self._lock = threading.Lock()
        self._kernels: dict[tuple[str, str], _Kernel | None] = {}
        self.is_valid = ggml.is_valid

    def quantize(
        self,
        stored: Stored,
        kind: TensorType,
        weights: np.ndarray[Any, np.dtype[np.float32]] | None = None,
    ) -> _Bytes:
        """As `Ggml.quantize`, which does the work where weights matter."""
        if weights is not None and kind.name not in _UNWEIGHTED:
            return self._ggml.quantize(stored, kind, weights)
        kernel = self._kernel(kind, stored.dtype)
        if kernel is None or stored.rows.size < kernel.least * kind.block:
            return self._ggml.quantize(stored, kind)
        return kernel.quantize(stored, kind)

    def _kernel(self, kind: TensorType, dtype: str) -> _Kernel | None:
        """The kernel of a type: compiled and compared with ggml when it is first wanted."""
        if kind.name not in _DESIGNS:
            return None
        key = kind.name, dtype
        with self._lock:
            if key not in self._kernels:
                self._kernels[key] = self._made(kind, dtype)
            return self._kernels[key]

    def _made(self, kind: TensorType, dtype: str) -> _Kernel | None:
        text, least = kernel_text(kind.name, dtype, wide=self._compiler.wide)
        function = self._compiler.function(function_name(kind.name, dtype), text)
        kernel = _Kernel(function, least, self._ggml)
        probe = _probe(kind.block, dtype)
        if np.array_equal(kernel.quantize(probe, kind), self._ggml.quantize(probe, kind)):
            return kernel
        if self._forced:
            raise EngineMissing(
                f"The fast kernel of {kind.name} does not give the bytes that this machine's ggml gives.",
                hint="Use --kernels ggml.",
            )
        return None


def _probe(block: int, dtype: str) -> Stored:
    floats = np.random.default_rng(0).standard_normal((_PROBE, block), np.float32)
    if dtype == "BF16":
        return Stored((floats.view(np.uint32) >> 16).astype(np.uint16), dtype)
    return Stored(floats.astype(np.float16) if dtype == "F16" else floats, dtype)


class _Kernel:
    """One compiled kernel."""

    def __init__(self, function: Function, least: int, ggml: Ggml) -> None:
        self._function = function
        self._ggml = ggml
        self.least = least

    def quantize(self, stored: Stored, kind: TensorType) -> _Bytes:
        """As `Ggml.quantize`, for at least `least` blocks."""
        rows = stored.rows
        count = rows.size // kind.block
        blocks = np.empty((count, kind.block_bytes), np.uint8)
        notes = np.empty(count, np.uint8)
        self._function(rows.ctypes.data, blocks.ctypes.data, notes.ctypes.data, count)
        if notes.any():
            odd = np.flatnonzero(notes)
            left = Stored(rows.reshape(count, kind.block)[odd], stored.dtype)
            blocks[odd] = self._ggml.quantize(left, kind).reshape(len(odd), -1)
        return blocks.reshape(-1)


def load_fast(*, forced: bool) -> Fast:
    """Load LLVM and ggml. Raises `EngineMissing`."""
    return Fast(load_compiler(), load_ggml(), forced=forced)
