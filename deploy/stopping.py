"""The `stop` rung: does the model end its answers by itself, and is what it says free of template markup?

The questions are greetings: of 17 short prompts they told right templates from wrong ones best. A healthy
SmolLM2-135M ends them within 28 tokens; with an Alpaca, Vicuna or Llama-3 template around it none of the
three ends within 256. Pure functions: does not know HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chat_templates import TemplateSource
    from checkpoint import Checkpoint

__all__ = [
    "BUDGET",
    "QUESTIONS",
    "THINKING_BUDGET",
    "Answer",
    "Verdict",
    "judge",
    "markers_of",
    "read_answer",
]

QUESTIONS = ("Hi!", "Say hello.", "Thank you!")
BUDGET = 256
"""Tokens for one answer: nine times what the small healthy model needs."""
THINKING_BUDGET = 2048
"""Tokens for the second try of a model that was still thinking."""

GENERIC_MARKERS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|begin_of_text|>", "<|eot_id|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>",
    "<start_of_turn>", "<end_of_turn>", "<｜User｜>", "<｜Assistant｜>", "<|start|>", "<|message|>",
    "<|eom_id|>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "USER:", "ASSISTANT:", "<eoa>", "<eoh>",
    "[UNUSED_TOKEN_", "<s>", "</s>", "<bos>", "<eos>", "### Instruction", "### Response", "### Human",
    "### Assistant",
)  # fmt: skip
"""Markup of widespread templates: looked for when the model's own is not known, and besides it."""

_ROLE_FIRST = re.compile(r"\s*(assistant|user|system|model)\s*\n")
_MARKUP = re.compile(r"[<>\[\]|#{}｜]|:$")


@dataclass(frozen=True)
class Answer:
    """What the server said to one question."""

    text: str
    finish_reason: str | None
    tokens: int | None = None
    thoughts: str = ""

    @property
    def still_thinking(self) -> bool:
        opened = self.text.lstrip().startswith("<think>") and "</think>" not in self.text
        return self.finish_reason == "length" and (opened or bool(self.thoughts and not self.text.strip()))


@dataclass(frozen=True)
class Verdict:
    """Whether all is well, and one sentence about it; `hint` says what to try."""

    ok: bool
    detail: str
    hint: str | None = None


def read_answer(body: Any) -> Answer | None:
    """Return the answer in the JSON of a chat completion, None when it is not one."""
    try:
        choice = body["choices"][0]
        message = choice["message"]
        usage = body.get("usage") or {}
        return Answer(
            text=str(message.get("content") or ""),
            finish_reason=choice.get("finish_reason"),
            tokens=usage.get("completion_tokens"),
            thoughts=str(message.get("reasoning_content") or message.get("reasoning") or ""),
        )
    except (KeyError, IndexError, TypeError, AttributeError):
        return None


def markers_of(source: TemplateSource | None, checkpoint: Checkpoint | None) -> tuple[str, ...]:
    """Return the texts that never belong into an answer: the template's markup and the special tokens."""
    found = list(GENERIC_MARKERS)
    if source is not None and source.form is not None:
        form = source.form
        blocks = [block for block in (form.system, form.user, form.assistant, form.tool) if block]
        texts = [part for block in blocks for part in (block.prefix, block.suffix)]
        for text in (*texts, form.generation_prompt, *form.stop):
            found += [line.strip() for line in text.splitlines()]
    if checkpoint is not None:
        found += [token.content for token in checkpoint.tokenizer.added if token.special]
    return tuple(dict.fromkeys(text for text in found if len(text) >= 3 and _MARKUP.search(text)))


def judge(answers: Sequence[Answer], markers: Sequence[str], budget: int = BUDGET) -> Verdict:
    """Say whether the model stops by itself, and if not, in which of the three ways it fails."""
    endless = [answer for answer in answers if answer.finish_reason == "length"]
    leaks = [(answer, marker) for answer in answers if (marker := _leak(answer.text, markers))]
    empty = [a for a in answers if a.finish_reason != "length" and not (a.text.strip() or a.thoughts)]
    strange = [a for a in answers if a.finish_reason not in ("stop", "length")]
    total = len(answers)
    if endless:
        wild = f", and writes the template's markup: {leaks[0][1]!r}" if leaks else ""
        return Verdict(
            False,
            f"never stops: {len(endless)} of {total} answers ran to the limit of {budget} tokens{wild}. "
            f"{_sample(endless[0])}",
            "The chat template or the stop ids are not the model's. `portside inspect MODEL` shows both, "
            "--template names another template; serve without --as-is to have the stop ids repaired.",
        )
    if leaks:
        return Verdict(
            False,
            f"stops, but leaks the template's markup {leaks[0][1]!r} in {len(leaks)} of {total} answers. "
            f"{_sample(leaks[0][0])}",
            "The chat template is not quite the model's: compare it with --checkpoint MODEL.",
        )
    if empty:
        return Verdict(
            False,
            f"empty: {len(empty)} of {total} answers hold no text.",
            "The chat template is most likely not the model's: compare it with --checkpoint MODEL.",
        )
    if strange:
        reason = strange[0].finish_reason
        return Verdict(
            False, f"finish_reason is {reason!r} in {len(strange)} of {total} answers, not 'stop'."
        )
    longest = max((answer.tokens or 0 for answer in answers), default=0)
    return Verdict(True, f"{total} of {total} answers end by themselves (longest {longest} tokens)")


def _leak(text: str, markers: Sequence[str]) -> str | None:
    if role := _ROLE_FIRST.match(text):
        return f"{role[1]}\n"
    return next((marker for marker in markers if marker in text), None)


def _sample(answer: Answer) -> str:
    return f"It said: {answer.text[:80]!r}{'…' if len(answer.text) > 80 else ''}"
