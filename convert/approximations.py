"""What llama.cpp's tokenizers do otherwise than the tokenizer of a checkpoint, measured, as findings.

Does not know how a pre-tokenizer is recognised.
"""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint import Finding, Tokenizer

__all__ = ["approximations"]

_MARKS = (
    "warning",
    "splits words with combining marks (Hindi, Arabic vowels, decomposed accents)",
    "For such languages serve the model with vLLM.",
)
_RULES = {
    "gpt-4o": _MARKS,
    "tekken": _MARKS,
    "deepseek-llm": ("info", "splits white space in front of an ideographic space (U+3000)", ""),
}
"""Rules that llama.cpp has under a name but follows only roughly: how much it matters, what, what to do."""


def approximations(pre: str, tokenizer: Tokenizer) -> Iterator[Finding]:
    """Yield what the rule `pre` and llama.cpp's way with added tokens change about `tokenizer`."""
    if pre in _RULES:
        severity, what, fix = _RULES[pre]
        yield Finding(
            "pre-tokenizer-approximate",
            "warning" if severity == "warning" else "info",
            f"llama.cpp's pre-tokenizer {pre} {what} otherwise than the tokenizer does; other text is split "
            "alike.",
            fix,
        )
    if any("▁" in token.content and not token.special for token in tokenizer.added):
        yield Finding(
            "lower-blocks-in-text",
            "info",
            "The tokenizer has tokens of several spaces, written with U+2581; where a text itself holds that "
            "character several times in a row, llama.cpp takes other tokens. Other text is split alike.",
        )
