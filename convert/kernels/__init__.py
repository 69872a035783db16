"""What computes the blocks of a row.

stored.py holds the rows as they come from the checkpoint. ggml.py is always there and decides what is right;
fast.py gives the same bytes several times sooner, with LLVM: fast_affine.py and fast_scaled.py say what is
computed, with fast_search.py and fast_lanes.py; fast_emit.py writes that as code, fast_build.py compiles it.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from convert.kernels.fast import FAST_TYPES, Fast, load_fast
from convert.kernels.ggml import Ggml, load_ggml
from convert.kernels.stored import Stored
from convert.types import TensorType
from errors import EngineMissing, UsageError

__all__ = [
    "CHOICES",
    "FAST_TYPES",
    "Fast",
    "Ggml",
    "Kernels",
    "Stored",
    "load_fast",
    "load_ggml",
    "load_kernels",
]

CHOICES = ("auto", "ggml", "fast")


class Kernels(Protocol):
    """What a conversion needs of them; `Ggml` says what each does."""

    def quantize(
        self,
        stored: Stored,
        kind: TensorType,
        weights: np.ndarray[Any, np.dtype[np.float32]] | None = None,
    ) -> np.ndarray[Any, np.dtype[np.uint8]]: ...

    def is_valid(self, data: np.ndarray[Any, np.dtype[np.uint8]], kind: TensorType) -> bool: ...


def load_kernels(choice: str) -> Kernels:
    """Load the kernels that `choice` names: "ggml", "fast", or "auto" (fast where they can be had).

    Raises `EngineMissing` and `UsageError`.
    """
    if choice not in CHOICES:
        raise UsageError(f"There are no kernels {choice!r}.", hint=f"Choose one of {', '.join(CHOICES)}.")
    if choice == "ggml":
        return load_ggml()
    if choice == "fast":
        return load_fast(forced=True)
    try:
        return load_fast(forced=False)
    except EngineMissing:
        return load_ggml()
