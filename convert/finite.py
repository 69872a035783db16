"""Blocks whose scales are NaN or infinite: what every number of a damaged block is multiplied with.

Knows where each type keeps its scales, from the structures of ggml's src/ggml-common.h. Does not know files.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from checkpoint.gguf import RowType

__all__ = ["first_bad_block", "is_judged"]

_Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_HALF_SCALES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("F16", "Q4_0", "Q5_0", "Q8_0", "Q1_0", "IQ4_NL", "IQ4_XS"), (0,)),
    **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q8_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}
"""Where in a block its float16 scales and minima stand."""

_MASKS: dict[str, tuple[tuple[tuple[int, int], ...], ...]] = {
    # (byte, bits): bad where all the bits of all the bytes are set. In a little-endian float16 the whole
    # exponent is in the high byte; all of its bits set is an infinity or a NaN.
    **{kind: tuple(((at + 1, 0x7C),) for at in places) for kind, places in _HALF_SCALES.items()},
    "BF16": (((1, 0x7F), (0, 0x80)),),
    "F32": (((3, 0x7F), (2, 0x80)),),
    "F64": (((7, 0x7F), (6, 0xF0)),),
    "Q8_K": (((3, 0x7F), (2, 0x80)),),
    # A float16 in four nibbles, of which the last two hold the exponent.
    "IQ1_M": (((53, 0xC0), (55, 0x70)),),
    "MXFP4": (((0, 0xFF),),),
}
_WHOLE_NUMBERS = frozenset({"I8", "I16", "I32", "I64"})


def is_judged(kind: str) -> bool:
    """Whether anything is known of the scales of the type `kind` ("Q4_K")."""
    return kind in _MASKS or kind in _WHOLE_NUMBERS


def first_bad_block(data: _Bytes, kind: RowType) -> int | None:
    """Return the index of the first block of `data` (whole blocks of `kind`) that is not finite."""
    blocks = data.reshape(-1, kind.block_bytes)
    found = [_first(blocks, mask) for mask in _MASKS.get(kind.name, ())]
    return min((index for index in found if index is not None), default=None)


def _first(blocks: _Bytes, mask: tuple[tuple[int, int], ...]) -> int | None:
    bad = None
    for place, bits in mask:
        set_here = (blocks[:, place] & np.uint8(bits)) == bits
        bad = set_here if bad is None else bad & set_here
    return int(bad.argmax()) if bad is not None and bad.any() else None
