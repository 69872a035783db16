"""The number of a question inside the text in front of it, as in ChatGLM2's `[Round 1]`.

Knows the mark that stands for it, a Unicode noncharacter, which no text that is exchanged may hold. Does not
know any template language.
"""

from __future__ import annotations

__all__ = ["ROUND", "numbered"]

ROUND = "\ufdd2"
"""Stands in a user's prefix for the number of the question, from 1."""


def numbered(text: str, number: int) -> str:
    """Return `text` with `number` in the place of the mark."""
    return text.replace(ROUND, str(number))
