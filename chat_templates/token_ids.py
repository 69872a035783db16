"""What each engine really feeds: the prompt as token ids, by the engine's own rule about BOS.

vLLM encodes a rendered prompt as it is. LMDeploy encodes with whatever the tokenizer adds by itself.
llama.cpp and Ollama put BOS in front where the GGUF says so, and encode the rest. Training had the ids of the
whole text. Knows the checkpoint's tokenizer, no dialect's text.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from errors import PortsideError

if TYPE_CHECKING:
    from chat_templates.dialects import DialectFacts
    from checkpoint import Tokenizer

__all__ = ["IdsResult", "TokenIds"]

Rule = Literal["as it is", "with special tokens", "behind BOS"]
_RULES: Mapping[str, Rule] = {
    "gguf": "behind BOS",
    "ollama": "behind BOS",
    "lmdeploy": "with special tokens",
}
"""By dialect; the others encode as it is."""


@dataclass(frozen=True)
class IdsResult:
    """Whether a dialect's prompts are the training prompts as token ids too."""

    status: Literal["exact", "differs"]
    cases: int
    """Prompts compared."""
    reason: str | None = None

    @classmethod
    def of_all(cls, results: Sequence[IdsResult]) -> IdsResult:
        """Return several results as one, with the first reason."""
        cases = sum(result.cases for result in results)
        bad = [result for result in results if result.status == "differs"]
        return cls("differs", cases, bad[0].reason) if bad else cls("exact", cases)

    def as_json(self) -> dict[str, Any]:
        return {"status": self.status, "cases": self.cases, "reason": self.reason}


class TokenIds:
    """Compares prompts as token ids; the tokenizer is loaded when the first one is encoded."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._plain = functools.cache(lambda text: tuple(tokenizer.encode(text)))

    def difference(self, dialect: str, facts: DialectFacts, prompt: str) -> str | None:
        """Say in words how the ids that the engine feeds for `prompt`, equal as text, are other than those of
        training; None where they are the same."""
        rule = _RULES.get(dialect, "as it is")
        if rule == "as it is":
            return None
        try:
            trained, fed = self._plain(prompt), tuple(self._fed(rule, facts, prompt))
        except PortsideError as error:
            return f"the prompt cannot be encoded: {error.message}"
        return None if fed == trained else _in_words(trained, fed, self._tokenizer.tokens)

    def compared(self, dialect: str, facts: DialectFacts, prompts: Sequence[tuple[str, str]]) -> IdsResult:
        """Compare prompts, (name of the conversation, text), up to the first difference."""
        for number, (name, prompt) in enumerate(prompts, start=1):
            words = self.difference(dialect, facts, prompt)
            if words is not None:
                return IdsResult("differs", number, f"With {name} {words}.")
        return IdsResult("exact", len(prompts))

    def _fed(self, rule: Rule, facts: DialectFacts, prompt: str) -> Sequence[int]:
        bos = facts.bos_token if facts.adds_bos else None
        text = prompt.removeprefix(bos) if bos else prompt
        if rule == "with special tokens":
            return self._tokenizer.encode(text, add_special_tokens=True)
        if bos and prompt.startswith(bos) and self._tokenizer.bos_id is not None:
            return (self._tokenizer.bos_id, *self._plain(text))
        return self._plain(prompt)


def _in_words(trained: Sequence[int], fed: Sequence[int], tokens: Sequence[str | None]) -> str:
    length = min(len(trained), len(fed))
    at = next((i for i in range(length) if trained[i] != fed[i]), length)

    def shown(ids: Sequence[int]) -> str:
        return " ".join(f"{number} {tokens[number]!r}" for number in ids[at : at + 2]) or "nothing"

    return (
        f"the text is the same, but not the token ids: from number {at} on training has {shown(trained)}, "
        f"the engine feeds {shown(fed)}"
    )
