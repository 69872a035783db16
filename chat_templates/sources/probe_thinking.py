"""How a template treats thoughts, found by rendering marked ones and by turning thinking on and off.

Knows where thoughts stand: in an answer's text, in a field of their own, in front of a call. Never reads the
Jinja's text. What it cannot say stays unsaid; the proof then shows the difference.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal

from chat_templates.jinja_engine import JinjaRequest, RenderFailed, switch
from chat_templates.sources.probe_tools import RESULT, TOOL, USER, Render, calling
from chat_templates.template import ChatTemplate, Message
from chat_templates.thinking import STRIPS, Thinking, Thought
from errors import TemplateError

__all__ = ["with_thinking", "with_thoughts_in_calls"]

_DAY = datetime.datetime(2033, 11, 28, 21, 22, 23)
_THOUGHT = "Thought1T"
_MARKED = f"<think>\n{_THOUGHT}\n</think>\n\n Answer1A"
_NEXT: Message = {"role": "user", "content": "Question2Q"}


def with_thinking(form: ChatTemplate, request: JinjaRequest, render: Render) -> ChatTemplate:
    """Return `form` with what it does about thoughts; the tools it has are not looked at."""
    asking = _Asking(request, render)
    form = replace(form, thinking=_history(form, asking))
    thinking = form.thinking or Thinking(strip_history=False)
    thinking = replace(thinking, on=_prompt(form, asking, True), off=_prompt(form, asking, False))
    past = _written(form, asking, (USER, _answer(), _NEXT), "past")
    current = _written(form, asking, (USER, _answer()), "current")
    if form.thinking is None and (thinking.on, thinking.off, past, current) == (None,) * 4:
        return form
    return replace(form, thinking=replace(thinking, past=past, current=current))


def with_thoughts_in_calls(form: ChatTemplate, request: JinjaRequest, render: Render) -> ChatTemplate:
    """Return `form`, which has tools, with what it does about thoughts in front of calls."""
    if form.tools is None:
        return form
    asking = _Asking(request, render)
    thinking = form.thinking or Thinking(strip_history=False)
    plain = replace(form, thinking=replace(thinking, current=None))
    current = _written(
        plain, asking, (USER, {**calling([1]), "reasoning_content": _THOUGHT}, RESULT), "current"
    )
    found = replace(thinking, current=current)
    talk = (USER, calling([1], _MARKED), RESULT)
    truth = asking.truth(talk, tools=(TOOL,))
    kept = replace(form, thinking=replace(found, strip_current=False))
    if thinking.strip_history and truth is not None and truth == _said(kept, talk, tools=(TOOL,)):
        return kept
    return replace(form, thinking=found) if form.thinking or current else form


class _Asking:
    """Renders one conversation at a time, on a day that is always the same."""

    def __init__(self, request: JinjaRequest, render: Render) -> None:
        self._request, self._render = replace(request, now=_DAY.isoformat()), render

    def truth(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        go_on: bool = False,
        thinking: bool | None = None,
    ) -> str | None:
        asked = replace(
            self._request,
            messages=messages,
            tools=tools,
            continue_final_message=go_on,
            variables={**self._request.variables, **switch(thinking)},
        )
        text = self._render([asked])[0]
        return None if isinstance(text, RenderFailed) else text


def _answer(thought: str = _THOUGHT, content: str = "Answer1A") -> Message:
    return {"role": "assistant", "content": content, "reasoning_content": thought}


def _said(form: ChatTemplate, messages: Sequence[Message], **wishes: Any) -> str | None:
    try:
        return form.render(messages, now=_DAY, **wishes)
    except TemplateError:
        return None


def _history(form: ChatTemplate, asking: _Asking) -> Thinking | None:
    """Return what becomes of thoughts in the text of a past answer; None where they are like other text."""
    talk: tuple[Message, ...] = (USER, {"role": "assistant", "content": _MARKED}, _NEXT)
    text = asking.truth(talk)
    if text is None or _THOUGHT in text:
        return Thinking(strip_history=False) if "<think>" in form.generation_prompt else None
    forms = [Thinking(strip_after=what) for what in STRIPS]
    return next((t for t in forms if _said(replace(form, thinking=t), talk) == text), Thinking())


def _prompt(form: ChatTemplate, asking: _Asking, thinking: bool) -> str | None:
    """Return the generation prompt with thinking turned on or off, where it is another than the usual."""
    before = _said(form, (USER,), add_generation_prompt=False)
    text = asking.truth((USER,), thinking=thinking)
    if before is None or text is None or not text.startswith(before):
        return None
    prompt = text[len(before) :]
    return None if prompt == form.generation_prompt else prompt


def _written(
    form: ChatTemplate, asking: _Asking, talk: Sequence[Message], where: Literal["past", "current"]
) -> Thought | None:
    """Return how the thought in the field of the second message of `talk` is written; None: it is not."""
    tools = (TOOL,) if len(talk) > 2 and talk[2]["role"] == "tool" else None
    wishes: dict[str, Any] = {"tools": tools, "continue_final_message": len(talk) == 2}
    lead = _said(form, talk[:1], tools=tools, add_generation_prompt=False)
    silent = _said(form, talk, **wishes)
    text = asking.truth(talk, tools=tools, go_on=len(talk) == 2)
    if lead is None or silent is None or text is None or text == silent:
        return None
    lead += form.assistant.prefix
    rest = silent[len(lead) + len(form.begun if len(talk) == 2 else "") :]
    at = text.find(_THOUGHT, len(lead))
    if not (silent.startswith(lead) and text.startswith(lead) and text.endswith(rest) and at >= 0):
        return None
    found = Thought(text[len(lead) : at], text[at + len(_THOUGHT) : len(text) - len(rest)])
    padded = [dict(message) for message in talk]
    padded[1] |= {"reasoning_content": f"\n {_THOUGHT} \n", "content": "\n Answer1A"}
    truth = asking.truth(padded, tools=tools, go_on=len(talk) == 2)
    for strip, strip_answer in product(STRIPS, STRIPS):
        thought = replace(found, strip=strip, strip_answer=strip_answer)
        thinking = form.thinking or Thinking(strip_history=False)
        thinking = replace(thinking, past=thought) if where == "past" else replace(thinking, current=thought)
        if _said(replace(form, thinking=thinking), padded, **wishes) == truth:
            return thought
    return found
