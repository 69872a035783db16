"""Rows as they are stored, to be quantized: float32, or the 16 bits of bfloat16 and float16.

Knows how large the values are, by their bits, and what they are as float32 once somebody needs that. Does not
know any quantized type.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from convert.kernels.ggml import load_ggml

__all__ = ["STORED_BYTES", "Stored"]

STORED_BYTES = {"BF16": 2, "F16": 2, "F32": 4}

_UNSIGNED = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}
_INFINITY = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}
"""Bits of infinity; those of a NaN are more."""
_MAGNITUDE = {"BF16": 0x7FFF, "F16": 0x7FFF, "F32": 0x7FFFFFFF}
"""All bits but the sign."""


@dataclass(frozen=True, eq=False)
class Stored:
    """C-contiguous rows of shape (rows, row length); bfloat16 comes as uint16."""

    rows: np.ndarray[Any, Any]
    dtype: str
    """"BF16", "F16" or "F32"."""

    @cached_property
    def floats(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The rows as float32, which changes no value."""
        return load_ggml().to_float32(self.rows, self.dtype)

    def largest(self) -> float:
        """Return the largest magnitude; infinity where a value is infinite or no number."""
        kind = _UNSIGNED[self.dtype]
        most = int(self._magnitudes().max())
        if most >= _INFINITY[self.dtype]:
            return np.inf
        bits = np.array([most], kind)
        if self.dtype == "BF16":
            return float((bits.astype(np.uint32) << 16).view(np.float32)[0])
        return float(bits.view(np.float16 if self.dtype == "F16" else np.float32)[0])

    def not_finite(self) -> int:
        """Return how many values are infinite or no number."""
        return int(np.count_nonzero(self._magnitudes() >= _INFINITY[self.dtype]))

    def _magnitudes(self) -> np.ndarray[Any, Any]:
        """The bits without the sign, whose order is that of the magnitudes."""
        bits: np.ndarray[Any, Any] = self.rows.view(_UNSIGNED[self.dtype])
        magnitudes: np.ndarray[Any, Any] = bits & bits.dtype.type(_MAGNITUDE[self.dtype])
        return magnitudes
