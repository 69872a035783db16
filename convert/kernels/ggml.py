"""ggml's own kernels, called in libggml-python's shared library: the bytes are llama.cpp's by construction.

Knows: conversion to float32, quantization of rows, validation of quantized rows; all of it without Python's
lock, so threads run side by side. Does not know names of tensors: it says yes or no.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convert.types import TensorType
from errors import EngineMissing

if TYPE_CHECKING:
    from convert.kernels.stored import Stored

__all__ = ["Ggml", "load_ggml"]

_LIBRARIES = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll", "libggml-base.dll")

_POINTER = ctypes.c_void_p


class Ggml:
    """The functions of one loaded ggml library. Arrays are C-contiguous; shapes are (rows, row length)."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._quantize = _function(
            library,
            "ggml_quantize_chunk",
            ctypes.c_size_t,
            (ctypes.c_int, _POINTER, _POINTER, *[ctypes.c_int64] * 3, _POINTER),
        )
        self._validate = _function(
            library, "ggml_validate_row_data", ctypes.c_bool, (ctypes.c_int, _POINTER, ctypes.c_size_t)
        )
        widen = (_POINTER, _POINTER, ctypes.c_int64)
        self._widen = {
            "BF16": _function(library, "ggml_bf16_to_fp32_row", None, widen),
            "F16": _function(library, "ggml_fp16_to_fp32_row", None, widen),
        }

    def to_float32(self, source: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return `source` as float32: a new array for "BF16" (as uint16) and "F16", itself for "F32"."""
        if dtype == "F32":
            return source
        out = np.empty(source.shape, np.float32)
        self._widen[dtype](source.ctypes.data, out.ctypes.data, source.size)
        return out

    def quantize(
        self,
        stored: Stored,
        kind: TensorType,
        weights: np.ndarray[Any, np.dtype[np.float32]] | None = None,
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the rows as `kind`: an array of bytes, row after row. `weights`, one for each element of a
        row, say how much an error there counts.
        """
        rows = stored.floats
        count, length = rows.shape
        out = np.empty(count * kind.row_bytes(length), np.uint8)
        if weights is not None and (weights.shape != (length,) or not weights.flags.c_contiguous):
            raise AssertionError(f"weights of shape {weights.shape} for rows of {length}")
        weighing = None if weights is None else weights.ctypes.data
        written = self._quantize(kind.number, rows.ctypes.data, out.ctypes.data, 0, count, length, weighing)
        if written != out.size:
            raise AssertionError(f"ggml wrote {written} bytes of {kind.name} where {out.size} were expected")
        return out

    def is_valid(self, data: np.ndarray[Any, np.dtype[np.uint8]], kind: TensorType) -> bool:
        """Whether every block of `data` has finite scales (llama.cpp checks the same after quantizing)."""
        return bool(self._validate(kind.number, data.ctypes.data, data.size))


@lru_cache(maxsize=1)
def load_ggml() -> Ggml:
    """Load the library of the `libggml-python` package. Raises `EngineMissing`."""
    spec = importlib.util.find_spec("libggml")
    roots = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    found = [path for root in roots for name in _LIBRARIES for path in sorted(root.rglob(name))]
    if not found:
        raise EngineMissing(
            "The quantization kernels are not installed: no library of ggml was found.",
            hint="Install them with `pip install libggml-python`.",
        )
    try:
        return Ggml(ctypes.CDLL(str(found[0])))
    except (OSError, AttributeError) as error:
        raise EngineMissing(
            f"The quantization kernels in {found[0]} cannot be loaded: {error}.",
            hint="Install another version with `pip install --force-reinstall libggml-python`.",
        ) from error


def _function(library: ctypes.CDLL, name: str, result: Any, arguments: tuple[Any, ...]) -> Any:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    return function
