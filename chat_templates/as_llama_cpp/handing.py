"""What llama.cpp's server hands over to a template, and what it makes of the renderings."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from .abilities import Abilities, abilities_of, rendered
from .thoughts import Thoughts, same_start, special_of, thoughts_of
from .values import SPACE, Unpredictable

__all__ = ["Renderer"]


_TRIMMED = "You have access to the following functions in JSONSchema format"
"""A template with this text gets its contents trimmed."""
_TEXTS = ("content", "reasoning_content")


class Renderer:
    """Renders conversations as llama.cpp's server does, with one environment."""

    def __init__(self, environment: jinja2.Environment) -> None:
        self._environment = environment
        self._known = functools.lru_cache(maxsize=16)(self._read)

    def render(
        self, text: str, request: Mapping[str, Any], limit: int, limited: Callable[..., Iterator[str]]
    ) -> str:
        """Return the prompt, which still begins with the BOS that the template writes.

        A template that fails on a plain question fails always: llama.cpp's server does not start with it.
        """
        known = self._known(text)
        _refuse_special(text, request)
        if known.abilities.vague and (
            request.get("tools") or any("tool_calls" in m for m in request["messages"])
        ):
            raise Unpredictable("the template fails on some conversations with tools")
        variables, final = prompt_parts(text, known.abilities, request)
        if "enable_thinking" in text and "enable_thinking" not in variables[0]:
            thinks = known.thoughts.thinks
            variables = tuple({**given, "enable_thinking": thinks} for given in variables)
        prompts = ["".join(limited(known.template.generate(given), limit)) for given in variables]
        if len(prompts) == 1:
            return prompts[0]
        open_end, answered = prompts
        start = known.thoughts.start.strip()
        if start and open_end.rstrip().endswith(start):
            raise Unpredictable("the template opens a thought in front of an answer")
        return open_end + known.thoughts.opening(answered[same_start(open_end, answered) :]) + final

    def _read(self, text: str) -> _Known:
        template = self._environment.from_string(text)
        known = _Known(text, template, abilities_of(template))
        if known.abilities.odd:
            raise Unpredictable("the template writes a list or an object of a tool call as a text")
        if known.abilities.unread:
            raise Unpredictable("llama.cpp cannot read the template's tool calls, and may not start with it")
        first = {"messages": known.handed([{"role": "user", "content": "test"}]), "enable_thinking": True}
        template.render({**first, "bos_token": "", "eos_token": "", "add_generation_prompt": True})
        return known


@dataclass(frozen=True)
class _Known:
    """What llama.cpp knows of a template when it has loaded it."""

    text: str
    template: jinja2.Template
    abilities: Abilities

    @functools.cached_property
    def thoughts(self) -> Thoughts:
        return thoughts_of(self.text, self._write)

    def handed(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return _handed([dict(message) for message in messages], self.abilities)

    def _write(self, messages: Sequence[dict[str, Any]], **variables: Any) -> str | None:
        return rendered(self.template, {"messages": self.handed(messages), **variables})


def _refuse_special(text: str, request: Mapping[str, Any]) -> None:
    """Raise `Unpredictable` where code of llama.cpp's own changes what is handed over."""
    if "source_lang_code" in text:
        raise Unpredictable("llama.cpp has code of its own for templates that translate")
    special = special_of(text)
    if special is None or special.whole:
        return
    fields = {"reasoning_content", "thinking", "reasoning", "tool_calls"}
    messages = request["messages"]
    if request.get("tools") or any(fields & set(m) or not m.get("content") for m in messages):
        raise Unpredictable(f"llama.cpp has code of its own for templates with {special.present[0]!r}")


def prompt_parts(
    text: str, abilities: Abilities, request: Mapping[str, Any]
) -> tuple[tuple[dict[str, Any], ...], str]:
    """Return the variables of the renderings that make a prompt, and the text that follows them.

    There is one rendering, or, where an answer is continued, one without and one with a generation prompt:
    the prompt is the first one, what the second has more, and the answer.
    """
    messages = [_message(message, trimmed=_TRIMMED in text) for message in request["messages"]]
    final = ""
    if request.get("continue_final_message"):
        final = messages.pop()["content"] if messages else ""
    messages = _handed(messages, abilities)
    now = datetime.datetime.fromisoformat(request["now"]) if request.get("now") else datetime.datetime.now()
    variables: dict[str, Any] = {
        **(request.get("variables") or {}),
        "datetime": now.strftime("%b %d %Y"),
        "date_string": now.strftime("%d %b %Y"),
        "strftime_now": now.strftime,
        "messages": messages,
    }
    if request.get("tools"):
        variables["tools"] = [_tool(tool) for tool in request["tools"]]
    open_end, answered = variables, {**variables, "add_generation_prompt": True}
    if request.get("continue_final_message"):
        return (open_end, answered), final
    return (answered if request.get("add_generation_prompt") else open_end,), ""


def _handed(messages: list[dict[str, Any]], abilities: Abilities) -> list[dict[str, Any]]:
    if abilities.parts and not abilities.texts:
        messages = [
            {**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages
        ]
    messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
    if not abilities.system and messages and messages[0]["role"] == "system":
        if abilities.system is None:
            raise Unpredictable("it is open whether llama.cpp takes it to know system messages")
        messages = _folded(messages)
    if abilities.object_arguments:
        for message in messages:
            for call in message.get("tool_calls", ()):
                call["function"] = {
                    **call["function"],
                    "arguments": json.loads(call["function"]["arguments"]),
                }
    return messages


def _folded(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the system message in front of the next one, which is whose it may be."""
    system, *rest = messages
    if not rest:
        return rest
    contents = [system["content"], rest[0]["content"]]
    if not all(isinstance(content, str) for content in contents):
        raise Unpredictable(
            "a system message in a template that takes lists of parts and knows no system role"
        )
    return [{**rest[0], "content": "\n".join(contents)}, *rest[1:]]


def _message(message: Mapping[str, Any], *, trimmed: bool) -> dict[str, Any]:
    """Return a message as llama.cpp writes it again after reading it: it knows a few fields only."""
    if trimmed:
        texts = {name: message[name].strip(SPACE) for name in _TEXTS if isinstance(message.get(name), str)}
        message = {**message, **texts}
    content = message.get("content")
    if not isinstance(content, str | None):
        raise Unpredictable("a content is a list of parts")
    found: dict[str, Any] = {"role": message["role"], "content": content or ""}
    for name in ("reasoning_content", "name", "tool_call_id"):
        if message.get(name):
            found[name] = message[name]
    if message.get("tool_calls"):
        found["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    return found


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function["arguments"]
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    found = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {**found, "id": call["id"]} if call.get("id") else found


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    return {
        "type": "function",
        "function": {
            "name": function["name"],
            "description": function.get("description", ""),
            "parameters": function.get("parameters", {}),
        },
    }
