"""The conversation suite: the questions that a proof asks of every dialect, by class.

Knows the JSON files beside it and the cases that are made from a template's own markers. Does not know
how a prompt looks. A file holds `{"class": …, "cases": [{"name", "messages", "tools"?, "continue"?,
"thinking"?}]}`.
"""

from __future__ import annotations

import datetime
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_templates.rounds import numbered
from chat_templates.template import ChatTemplate, Message

__all__ = ["CLASSES", "Case", "cases_of"]

CLASSES = ("chat", "prefill", "tools", "thinking", "unicode", "repeated")
"""chat: plain alternating turns. prefill: the model goes on with a begun answer. tools, thinking: what they
say. unicode: white space and text that is hard to carry. repeated: roles that do not alternate."""

_SOME_DAY = datetime.datetime(2026, 3, 9)
"""For markers that hold the date."""


@dataclass(frozen=True)
class Case:
    """One conversation, and how it is to be rendered."""

    name: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    continue_final_message: bool = False
    thinking: bool | None = None
    """Thinking turned on or off by the request (`enable_thinking`); None: not mentioned."""

    @property
    def add_generation_prompt(self) -> bool:
        return not self.continue_final_message


def cases_of(class_name: str, form: ChatTemplate | None = None) -> tuple[Case, ...]:
    """Return the cases of one class; `form` adds contents that hold the template's own markers."""
    cases = _from_file(class_name)
    if class_name == "unicode" and form is not None:
        cases += _with_markers(form)
    return cases


@functools.cache
def _from_file(class_name: str) -> tuple[Case, ...]:
    path = Path(__file__).with_name(f"{class_name}.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    return tuple(
        Case(
            name=case["name"],
            messages=tuple(case["messages"]),
            tools=tuple(case["tools"]) if "tools" in case else None,
            continue_final_message=case.get("continue", False),
            thinking=case.get("thinking"),
        )
        for case in data["cases"]
    )


def _with_markers(form: ChatTemplate) -> tuple[Case, ...]:
    form = form.on(_SOME_DAY)
    markups = (form.user, form.assistant, form.system)
    texts = {text for markup in markups if markup for text in (markup.prefix, markup.suffix)}
    texts |= {form.generation_prompt, form.bos}
    return tuple(
        Case(
            name=f"a message that holds the marker {text!r}",
            messages=(
                {"role": "user", "content": f"What does {text}mean?"},
                {"role": "assistant", "content": f"I write {text}before a turn."},
                {"role": "user", "content": f"And twice, {text}{text}so?"},
            ),
        )
        for text in sorted(numbered(text, 1) for text in texts)
        if text.strip()
    )
