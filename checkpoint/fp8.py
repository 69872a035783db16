"""Weights in 8-bit floats with scales beside them: which scale belongs to which matrix, and their product.

Knows the ways in which checkpoints carry them: `weight_scale_inv` of DeepSeek and transformers, one number
for a block of 128 x 128; `weight_scale` of compressed-tensors, fbgemm and ModelOpt, one for the matrix, for a
row or for a block. A weight is the stored number times its scale, in float32. Does not know other quantized
weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from checkpoint.config import ModelConfig
from checkpoint.findings import CheckpointFlaw
from checkpoint.rows import DerivedRows, Rows
from checkpoint.safetensors import TensorInfo

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Scale", "ScaledRows", "belongs_to_fp8", "find_scales", "holds_fp8", "scaled"]

_METHODS = {None, "fp8", "fbgemm_fp8", "compressed-tensors", "modelopt"}
_SCALES = ("_scale_inv", "_scale")
_BESIDE = re.compile(r".*\.(weight_scale(_inv)?|(input|activation|output|q|k|v|kv)_scale(_ub)?)")
"""Scales of weights, and those of activations and of the cache, which only a server in fp8 needs."""
_FORMATS = {"F8_E4M3": (4, 3, 7), "F8_E5M2": (5, 2, 15)}
"""Bits of exponent and mantissa, and the exponent's bias."""
_BLOCK = (128, 128)
_ELSEWHERE = "Give the checkpoint in bfloat16 that it was made of, or serve this one with vLLM."


def holds_fp8(config: ModelConfig, tensors: Iterable[TensorInfo]) -> bool:
    """Whether weights are stored in 8-bit floats, by a method that says no more than that."""
    return config.quantization in _METHODS and any(
        info.dtype.startswith("F8_") and not _BESIDE.fullmatch(info.name) for info in tensors
    )


def belongs_to_fp8(name: str) -> bool:
    """Whether tensor `name`, of weights in 8-bit floats, is a scale."""
    return _BESIDE.fullmatch(name) is not None


@dataclass(frozen=True)
class Scale:
    """The scale of one matrix: every `block[0]` rows and `block[1]` columns share a number."""

    info: TensorInfo
    block: tuple[int, int]


@dataclass(frozen=True, eq=False)
class ScaledRows(DerivedRows):
    """A matrix of 8-bit floats times its scale, in float32."""

    scales: np.ndarray[Any, Any]
    """As stored, (blocks of rows, blocks of columns); bfloat16 as its bits."""
    block: tuple[int, int]

    @property
    def dtype(self) -> str:
        return "F32"

    def read(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        import numpy as np

        down, across = self.block
        first = start // down
        scales = _floats(self.scales[first : -(-stop // down)])
        values: np.ndarray[Any, Any] = _numbers(self.rows.dtype)[self.rows.read(start, stop)]
        wide = np.repeat(scales, across, axis=1)[:, : values.shape[1]]
        values *= wide[np.arange(start, stop) // down - first]
        return values


def _floats(stored: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    if stored.dtype == np.uint16:  # bfloat16
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


@cache
def _numbers(dtype: str) -> np.ndarray[Any, Any]:
    """Return the 256 numbers of a format as float32."""
    import numpy as np

    exponents, mantissas, bias = _FORMATS[dtype]
    codes = np.arange(128)
    exponent, mantissa = codes >> mantissas, (codes & ((1 << mantissas) - 1)) / (1 << mantissas)
    values = np.where(exponent > 0, (1 + mantissa) * 2.0 ** (exponent - bias), mantissa * 2.0 ** (1 - bias))
    if dtype == "F8_E4M3":
        values[-1] = np.nan  # the only code that is no number; there is no infinity
    else:
        values[exponent == (1 << exponents) - 1] = np.nan
        values[0b11111 << mantissas] = np.inf
    return np.concatenate([values, -values]).astype(np.float32)


def find_scales(config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> dict[str, Scale]:
    """Return the scale of each matrix of 8-bit floats. Raises `CheckpointFlaw` for one without, or with a
    scale of another shape than those that are known."""
    block = _declared_block(config)
    return {
        info.name: _scale(info, tensors, block)
        for info in tensors.values()
        if info.dtype.startswith("F8_") and not belongs_to_fp8(info.name)
    }


def _scale(info: TensorInfo, tensors: Mapping[str, TensorInfo], block: tuple[int, int]) -> Scale:
    if info.dtype not in _FORMATS:
        raise _flaw(f"Tensor {info.name} is stored as {info.dtype}; of fp8 {' and '.join(_FORMATS)} are read")
    found = [tensors[info.name + end] for end in _SCALES if info.name + end in tensors]
    if not found:
        raise _flaw(f"Tensor {info.name} is stored as {info.dtype} without a scale ({info.name}_scale_inv)")
    scale = found[0]
    shapes = _known_shapes(info.shape, block) if len(info.shape) == 2 else {}
    if scale.shape not in shapes or scale.dtype not in {"F32", "BF16", "F16"}:
        raise _flaw(
            f"Tensor {scale.name} ({scale.dtype}, {scale.shape}) is no scale that Portside knows for "
            f"{info.name} of shape {info.shape}"
        )
    return Scale(scale, shapes[scale.shape])


def _known_shapes(matrix: Sequence[int], block: tuple[int, int]) -> Mapping[tuple[int, ...], tuple[int, int]]:
    """Return the shape of a scale -> how many rows and columns share a number."""
    rows, columns = matrix
    blocks = (-(-rows // block[0]), -(-columns // block[1]))
    return {
        blocks: block,
        (rows, 1): (1, columns),
        (rows,): (1, columns),
        (1, 1): (rows, columns),
        (1,): (rows, columns),
        (): (rows, columns),
    }


def _declared_block(config: ModelConfig) -> tuple[int, int]:
    """Return the size of a block as config.json has it: DeepSeek's key, or compressed-tensors'."""
    declared = config.raw.get("quantization_config") or config.raw.get("compression_config") or {}
    if declared.get("transform_config"):
        raise _flaw("config.json says that the weights were rotated before quantization (transform_config)")
    found: list[Any] = [declared.get("weight_block_size")]
    groups = declared.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        found.append(weights.get("block_structure") if isinstance(weights, dict) else None)
    blocks = [value for value in found if value is not None]
    for value in blocks:
        if not isinstance(value, list) or len(value) != 2 or not all(type(n) is int and n > 0 for n in value):
            raise _flaw(f"config.json has {str(value)[:60]!r} as the size of a block of weights")
    if any(value != blocks[0] for value in blocks):
        raise _flaw("config.json has blocks of weights of several sizes")
    return (blocks[0][0], blocks[0][1]) if blocks else _BLOCK


def scaled(rows: Rows, scale: Scale, stored: np.ndarray[Any, Any]) -> Rows:
    """Return `rows` of 8-bit floats times `scale`, whose numbers are `stored` (bfloat16 as its bits)."""
    down, across = scale.block
    shape = (-(-rows.shape[0] // down), -(-rows.shape[1] // across))
    return ScaledRows(rows, stored.reshape(shape), scale.block)


def _flaw(message: str) -> CheckpointFlaw:
    return CheckpointFlaw("fp8-unsupported", f"{message}.", hint=_ELSEWHERE)
