"""The header of a GGUF file, with the types of its tensors by name.

The reading itself is `checkpoint.gguf`, where chat templates are read from GGUF files too.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from checkpoint.gguf import ArrayInfo, GgufSummary, GgufTensor, read_header
from convert.types import TENSOR_TYPES

__all__ = ["ArrayInfo", "GgufSummary", "GgufTensor", "read_gguf"]

_KNOWN_TYPES = {kind.number: kind for kind in TENSOR_TYPES.values()}


def read_gguf(path: Path, arrays: Collection[str] | Literal["all"] = ()) -> GgufSummary:
    """Read the header of `path`; `arrays` names the long arrays to be read as well.

    Raises `ConversionError` when the file cannot be read, is no GGUF, or is cut off or damaged.
    """
    return read_header(path, arrays, _KNOWN_TYPES)
