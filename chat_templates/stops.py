"""Where the model stops: the texts that end the assistant's turn, as token ids.

Knows the template's turn end, the tokenizer's EOS and generation_config.json. Does not know any engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from checkpoint import Finding

__all__ = ["Stops"]


@dataclass(frozen=True)
class Stops:
    """Everything the served model must stop on."""

    strings: tuple[str, ...] = ()
    """The stop texts, the template's turn end first."""
    ids: tuple[int, ...] = ()
    """Token ids: the template's turn end(s), the tokenizer's EOS, generation_config's; unique, in order."""
    multi_token: tuple[str, ...] = ()
    """Stop texts that are not one token of the vocabulary; engines that stop by id cannot use them."""
    findings: tuple[Finding, ...] = ()
    turn_end: int | None = None
    """The id of the token that ends the assistant's turn, None when the turn's end is not one token."""
