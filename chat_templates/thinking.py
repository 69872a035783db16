"""`Thinking`: how a reasoning model marks its thoughts, and what becomes of those in past answers.

Knows the marks in an answer's text, thoughts that come in a field of their own (`reasoning_content`, as
vLLM, SGLang and DeepSeek's API name it), and the generation prompts with thinking turned on and off. Does not
know the rest of a template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["STRIPS", "Strip", "Thinking", "Thought", "reasoning_of", "stripped", "stripped_at_start"]

Strip = Literal["nothing", "line_feeds", "white_space"]
"""What is taken off a text's ends: nothing, as `.strip('\\n')` does, or as `.strip()` does."""

STRIPS: tuple[Strip, ...] = ("nothing", "line_feeds", "white_space")


def stripped(text: str, what: Strip) -> str:
    """Return `text` without `what` at both ends."""
    return {"nothing": text, "line_feeds": text.strip("\n"), "white_space": text.strip()}[what]


def stripped_at_start(text: str, what: Strip) -> str:
    """Return `text` without `what` at its start."""
    return {"nothing": text, "line_feeds": text.lstrip("\n"), "white_space": text.lstrip()}[what]


def reasoning_of(message: Mapping[str, Any]) -> str:
    """Return the thoughts that a message carries in a field of their own, "" if there are none."""
    for name in ("reasoning_content", "thinking", "reasoning"):
        if isinstance(message.get(name), str):
            return str(message[name])
    return ""


@dataclass(frozen=True)
class Thought:
    """How a thought from a field of its own is written in front of the answer."""

    prefix: str
    suffix: str
    strip: Strip = "nothing"
    """What the thought loses at both ends."""
    strip_answer: Strip = "nothing"
    """What the answer behind it loses at its start."""

    def lead(self, thought: str) -> str:
        """Return the text in front of the answer."""
        return f"{self.prefix}{stripped(thought, self.strip)}{self.suffix}"


@dataclass(frozen=True)
class Thinking:
    """How a reasoning model marks its thoughts."""

    open: str = "<think>"
    close: str = "</think>"
    strip_history: bool = True
    """Past answers lose everything up to and including the last `close`."""
    strip_after: Strip = "white_space"
    """What they lose behind that `close`."""
    strip_current: bool = True
    """Answers behind the last question, which call tools, count as past answers in this."""
    prefix: str | None = None
    """The assistant's prefix in front of an answer that holds `open` or `close`, where that is another than
    in front of one without thoughts. Trainers put an empty pair of the marks there."""
    on: str | None = None
    """The generation prompt when thinking is asked for (`enable_thinking` true); None: the usual one."""
    off: str | None = None
    """The generation prompt when thinking is turned off (`enable_thinking` false); None: the usual one."""
    past: Thought | None = None
    """Thoughts in a field of their own, in answers before the last question; None: they are not written."""
    current: Thought | None = None
    """The same behind the last question: in front of tool calls, and of a begun answer."""

    def marks(self, content: str) -> bool:
        """Whether `content` holds one of the marks."""
        return self.open in content or self.close in content

    def without(self, content: str) -> str:
        """Return a past answer's `content` without its thoughts."""
        if not self.strip_history or self.close not in content:
            return content
        return stripped_at_start(content.rpartition(self.close)[2], self.strip_after)

    @property
    def switched(self) -> bool:
        """Whether the generation prompt depends on `enable_thinking`."""
        return self.on is not None or self.off is not None

    def generation_prompt(self, usual: str, thinking: bool | None) -> str:
        """Return the text after the last message; `thinking` None leaves the choice to the template."""
        chosen = {None: None, True: self.on, False: self.off}[thinking]
        return usual if chosen is None else chosen
