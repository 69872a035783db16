"""The names of types: of a file (`q4_k_m`, what a user asks for) and of a tensor (`Q4_K`, how its rows are
stored).

Knows: the numbers GGUF gives them and the size of a block. Does not know which tensor of a file gets which
type (recipe.py), nor how a block is computed (kernels/).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from errors import UsageError

__all__ = ["FILE_TYPES", "TENSOR_TYPES", "TYPES", "FileType", "TensorType", "normalize_type", "tensor_type"]


@dataclass(frozen=True)
class TensorType:
    """How the rows of a tensor are stored: blocks of `block` elements in `block_bytes` bytes each."""

    name: str
    number: int
    """ggml's number of the type, as it stands in a tensor info."""
    block: int
    block_bytes: int

    @property
    def quantized(self) -> bool:
        return self.block > 1

    def row_bytes(self, elements: int) -> int:
        """Return the size of a row of `elements`, which must be whole blocks."""
        return elements // self.block * self.block_bytes

    def fits(self, elements: int) -> bool:
        """Whether a row of `elements` is whole blocks."""
        return elements % self.block == 0


@dataclass(frozen=True)
class FileType:
    """A mixture of tensor types that goes by one name."""

    name: str
    number: int
    """The value of general.file_type."""
    base: str
    """The tensor type of whatever the recipe does not single out."""


_TENSOR_TYPES = (
    TensorType("F32", 0, 1, 4),
    TensorType("F16", 1, 1, 2),
    TensorType("BF16", 30, 1, 2),
    TensorType("Q4_0", 2, 32, 18),
    TensorType("Q4_1", 3, 32, 20),
    TensorType("Q5_0", 6, 32, 22),
    TensorType("Q5_1", 7, 32, 24),
    TensorType("Q8_0", 8, 32, 34),
    TensorType("Q2_K", 10, 256, 84),
    TensorType("Q3_K", 11, 256, 110),
    TensorType("Q4_K", 12, 256, 144),
    TensorType("Q5_K", 13, 256, 176),
    TensorType("Q6_K", 14, 256, 210),
)
TENSOR_TYPES = {kind.name: kind for kind in _TENSOR_TYPES}

_FILE_TYPES = (
    FileType("f32", 0, "F32"),
    FileType("f16", 1, "F16"),
    FileType("bf16", 32, "BF16"),
    FileType("q8_0", 7, "Q8_0"),
    FileType("q6_k", 18, "Q6_K"),
    FileType("q5_k_m", 17, "Q5_K"),
    FileType("q5_k_s", 16, "Q5_K"),
    FileType("q4_k_m", 15, "Q4_K"),
    FileType("q4_k_s", 14, "Q4_K"),
    FileType("q3_k_l", 13, "Q3_K"),
    FileType("q3_k_m", 12, "Q3_K"),
    FileType("q3_k_s", 11, "Q3_K"),
    FileType("q2_k", 10, "Q2_K"),
    FileType("q5_0", 8, "Q5_0"),
    FileType("q5_1", 9, "Q5_1"),
    FileType("q4_0", 2, "Q4_0"),
    FileType("q4_1", 3, "Q4_1"),
)
FILE_TYPES = {kind.name: kind for kind in _FILE_TYPES}

TYPES: tuple[str, ...] = tuple(FILE_TYPES)

_SHORT = {"q8": "q8_0", "q4": "q4_k_m", "q5": "q5_k_m", "q6": "q6_k"}


def normalize_type(name: str) -> str:
    """Return the full lower-case name of a file type: "Q8" -> "q8_0". Raises `UsageError`."""
    lower = name.strip().lower().replace("-", "_")
    lower = _SHORT.get(lower, lower)
    if lower in FILE_TYPES:
        return lower
    near = difflib.get_close_matches(lower, TYPES, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}?" if near else ""
    raise UsageError(
        f"There is no GGUF type {name!r}.", hint=f"{hint} Known types: {', '.join(TYPES)}.".lstrip()
    )


def tensor_type(name: str) -> TensorType:
    """Return the tensor type `name` ("Q4_K"); a `KeyError` is a bug of the caller."""
    return TENSOR_TYPES[name]
