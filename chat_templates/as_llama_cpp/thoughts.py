"""How llama.cpp takes a template to write thoughts, which decides about the switch and about begun answers.

It renders with and without thoughts and looks for marks around them, or knows the template by its texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .values import Unpredictable

__all__ = ["Special", "Thoughts", "same_start", "special_of", "thoughts_of"]


@dataclass(frozen=True)
class Thoughts:
    """The marks that llama.cpp finds around thoughts."""

    supported: bool | None = False
    """Whether it lets the model think unless a request says otherwise; None: that is not known."""
    start: str = ""
    end: str = ""
    told: bool = True
    """Whether the marks are known."""

    @property
    def thinks(self) -> bool:
        if self.supported is None:
            raise Unpredictable("it is open whether llama.cpp takes it to know a switch for thinking")
        return self.supported

    def opening(self, generation_prompt: str) -> str:
        """Return what stands in front of an answer that is continued: no thought, between its marks."""
        if not self.told:
            raise Unpredictable("it is open what llama.cpp puts in front of an answer that is continued")
        if not self.start:
            return generation_prompt
        return generation_prompt.partition(self.start)[0] + self.start + self.end


@dataclass(frozen=True)
class Special:
    """A template that code of llama.cpp's own handles, known by texts in it."""

    present: tuple[str, ...]
    absent: tuple[str, ...] = ()
    thinks: bool | None = True
    whole: bool = False
    """Thoughts and tools are handed over as for any other template."""

    def is_of(self, text: str) -> bool:
        return all(word in text for word in self.present) and not any(word in text for word in self.absent)


_SPECIAL = (
    Special(("[SYSTEM_PROMPT]", "[TOOL_CALLS]", "[ARGS]"), ("[CALL_ID]",)),
    Special(("<|channel|>",)),
    Special(("<atem:function_calls>", "<|eom|>")),
    Special((">>>all", ">>>${recipient}"), thinks=None),
    Special(("<|tool_calls_section_begin|>", "<|tool_call_begin|>"), whole=True),
    Special(("<|open|>", "<|close|>", "<|end_of_msg|>")),
    Special(("<role>ASSISTANT</role>", "<arg_key>")),
    Special(("<|START_TEXT|>", "<|START_ACTION|>")),
    Special(("<|tool_list_start|>", "<|tool_list_end|>")),
    Special(("List of tools: [",), ("<|tool_list_start|>",)),
    Special(("<|role_sep|>", "<|message_sep|>"), ("<|function_call|>",), thinks=False),
    Special(("]<]minimax[>[", "<tool_call>", "<invoke name=")),
    Special(("dsml_token", "DSML")),
    Special(("'<|tool_call>call:'",)),
    Special(("Tool usage guidelines:", '<function name="', '<param name="')),
    Special(("<tool_call>", "<function=", "<parameter=", "<think>"), whole=True),
    Special(("<tool_call>", "<function=", "<parameter="), thinks=False, whole=True),
    Special(("Write your thoughts between <think></think>",), whole=True),
    Special(("<SPECIAL_12>", "<TOOL_RESPONSE>"), whole=True),
    Special(("laguna_glm_thinking",), thinks=None, whole=True),
)
"""In the order in which llama.cpp looks for them."""

_THOUGHT = "REASON_PART I am thinking END_R"
_MARK = r"(?:<[^>]*>|\[[^\]]*\])"
_ANCHOR = 64
"""Characters at the end of a prompt that are looked for in the other."""
_QUESTION = {"role": "user", "content": "U_USER_MSG Hello END_U"}
_ANSWER = {"role": "assistant", "content": "A_ASST_MSG I can help END_A"}
_CALL = {"name": "foofoo", "arguments": '{"first":"XXXX"}'}


def same_start(one: str, other: str) -> int:
    """Return the number of characters that two texts begin with together."""
    length = min(len(one), len(other))
    return next((at for at in range(length) if one[at] != other[at]), length)


Write = Callable[..., str | None]
"""Renders a list of messages with variables, as llama.cpp hands them over; None where that fails."""


def special_of(text: str) -> Special | None:
    """Return by which code of its own llama.cpp handles the template `text`; None: by none."""
    return next((special for special in _SPECIAL if special.is_of(text)), None)


def thoughts_of(text: str, write: Write) -> Thoughts:
    """Return how llama.cpp takes the template `text` to write thoughts."""
    special = special_of(text)
    if special is not None:
        return Thoughts(special.thinks, told=False)
    found = _around(write) or _around_calls(write)
    if found is not None:
        return found
    if "content.split('</think>')" in text and "reasoning_content" not in text:
        return Thoughts(True, "<think>", "</think>")
    off, on = (
        write([_QUESTION], enable_thinking=thinking, add_generation_prompt=True) for thinking in (False, True)
    )
    return Thoughts() if off is None or on is None or off == on else _switched(off, on)


def _around(write: Write) -> Thoughts | None:
    """Return the marks around the thoughts of a plain answer; None where it shows none."""
    shown = write([_QUESTION, {**_ANSWER, "reasoning_content": _THOUGHT}], enable_thinking=True)
    without = write([_QUESTION, _ANSWER], enable_thinking=True)
    if shown is None or without is None or _THOUGHT not in shown:
        return None
    return _marks(shown)


def _around_calls(write: Write) -> Thoughts | None:
    """Return the marks around thoughts in front of a call, which llama.cpp looks for too."""
    function: dict[str, Any] = {"type": "function", "function": _CALL, "id": "call00001"}
    shown = write(
        [
            _QUESTION,
            {"role": "assistant", "content": "", "reasoning_content": _THOUGHT, "tool_calls": [function]},
        ],
        enable_thinking=True,
    )
    return Thoughts(True, told=False) if shown is not None and _THOUGHT in shown else None


def _marks(shown: str) -> Thoughts:
    around = re.search(rf"({_MARK}\s*){re.escape(_THOUGHT)}(\s*{_MARK}\s*)", shown)
    if around:
        return Thoughts(True, around[1], around[2])
    behind = re.search(rf"{re.escape(_THOUGHT)}\s*{_MARK}", shown)
    return Thoughts(True if behind else None, told=False)


def _switched(off: str, on: str) -> Thoughts:
    """Return what the generation prompts with thinking off and on tell."""
    at = same_start(off, on)
    behind = same_start(off[at:][::-1], on[at:][::-1])
    less, more = off[at : len(off) - behind], on[at : len(on) - behind]
    if not less.strip():
        return Thoughts(True, more) if more.strip() and on.endswith(more.strip()) else Thoughts()
    if not more.strip():
        return Thoughts(True, told=False) if off.endswith(less.strip()) else Thoughts()
    return _behind(on, off) or _behind(off, on) or Thoughts()


def _behind(shorter: str, longer: str) -> Thoughts | None:
    """Return the marks that one prompt has behind the end of the other; None where there are none."""
    end = shorter[-_ANCHOR:]
    at = longer.rfind(end)
    marks = re.fullmatch(rf"\s*({_MARK})\s*({_MARK})\s*", longer[at + len(end) :]) if at >= 0 else None
    return Thoughts(True, marks[1], marks[2]) if marks else None
