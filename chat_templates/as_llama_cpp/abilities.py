"""What llama.cpp takes a template to be able to read, which decides what it hands over.

It renders a few conversations and watches which values the template touches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jinja2

from .thoughts import same_start
from .values import Unpredictable, Watched, WatchedDict, WatchedList, objects_in_texts

__all__ = ["Abilities", "abilities_of", "rendered"]


@dataclass(frozen=True)
class Abilities:
    """What llama.cpp takes a template to be able to read."""

    texts: bool = True
    parts: bool = False
    system: bool | None = True
    """None: that is not known."""
    calls: bool = True
    object_arguments: bool = False
    odd: bool = False
    """Calls are written with texts of objects; llama.cpp may not start with such a template."""
    unread: bool = False
    """Calls look like JSON and are none; llama.cpp does not start with such a template."""
    vague: bool = False
    """Some conversations with tools fail, so that llama.cpp may refuse others too."""


def abilities_of(template: jinja2.Template) -> Abilities:
    """Find out as llama.cpp does: by rendering conversations and watching what is read."""
    objects_in_texts.clear()
    found = Abilities()
    seen: set[str] = set()
    content = Watched("STRING_MARKER")
    content.seen = seen
    text = _tried(template, [_watched({"role": "user", "content": content})])
    array = "array" in seen
    lost = text is None or (array and "STRING_MARKER" not in text)
    found = replace(found, texts=not lost, parts=array)
    if "string" in seen:
        parts = WatchedList()
        parts.seen = set()
        tried = _tried(template, [_watched({"role": "user", "content": parts})])
        found = replace(found, parts=found.parts or ("array" in parts.seen and tried is not None))
    system = _watched({"role": "system", "content": "System message"})
    _tried(template, [system, _watched({"role": "user", "content": "User message"})])
    got = "get content" in system.seen and "content" not in system.seen
    found = replace(found, system=None if got else "content" in system.seen)
    return _with_calls(template, found)


def _with_calls(template: jinja2.Template, found: Abilities) -> Abilities:
    arguments = _watched({"arg": "value"})
    calling = _calling(arguments)
    done = _tried(template, _call_messages(calling), _TOOLS) is not None
    read = done and _has_read(calling, "tool_calls")
    if read and _has_read(arguments, "arg"):
        found = replace(found, object_arguments=True)
    else:
        calling = _calling('{"arg": "value"}')
        done = _tried(template, _call_messages(calling), _TOOLS) is not None
        found = replace(found, calls=done and _has_read(calling, "tool_calls"))
    return replace(found, **_peculiar(template, found))


def _has_read(value: WatchedDict, name: str) -> bool:
    return bool({name, f"get {name}"} & value.seen)


def _peculiar(template: jinja2.Template, found: Abilities) -> dict[str, bool]:
    """Look for what llama.cpp's search for the form of tool calls stumbles over."""
    early = bool(objects_in_texts)
    objects_in_texts.clear()
    arguments: Any = {"arg": "value"} if found.object_arguments else '{"arg": "value"}'
    conversation = _call_messages(_calling(arguments))
    for messages in (conversation, conversation[:2]):
        _tried(template, messages, _TOOLS)
        _tried(template, messages)
    odd = "dict" in objects_in_texts or "WatchedDict" in objects_in_texts
    plain = {"name": "tool1", "description": "Tool", "parameters": {"type": "object", "properties": {}}}
    bare = _tried(template, conversation[:1], [{"type": "function", "function": plain}])
    alone = _tried(template, conversation[:2], _TOOLS)
    return {
        "odd": odd,
        "unread": found.calls and not _reads_its_call(template),
        "vague": early or bare is None or alone is None,
    }


def _reads_its_call(template: jinja2.Template) -> bool:
    """Return whether llama.cpp can read a call as it is written, if it takes it for JSON.

    It compares an answer with a call, and takes what only the call has from the first brace to the last.
    """
    asked = {"role": "user", "content": "U_USER_MSG Hello END_U"}
    said = {"role": "assistant", "content": "A_ASST_MSG I can help END_A"}
    function = {"name": "FFF_FIRST_FUN_F", "arguments": {"AA_ARG_FST_AA": "XXXX", "BB_ARG_SND_BB": "YYYY"}}
    call = {"id": "call00001", "type": "function", "function": function}
    calling = {"role": "assistant", "content": "", "tool_calls": [call]}
    common = {"tools": _TOOLS, "add_generation_prompt": False, "enable_thinking": True}
    plain, called = (
        rendered(template, {"messages": [asked, answer], **common}) for answer in (said, calling)
    )
    if plain is None or called is None:
        return True
    section = called[same_start(plain, called) :]
    if not re.search(r'[{:]\s*"FFF_FIRST_FUN_F"', section):
        return True
    section = section[: len(section) - same_start(plain[::-1], section[::-1])]
    try:
        json.loads(section[section.find("{") : section.rfind("}") + 1])
    except ValueError:
        return False
    return True


def _calling(arguments: Any) -> WatchedDict:
    function = {"name": "tool1", "arguments": arguments}
    call = {"id": "call00001", "type": "function", "function": function}
    return _watched({"role": "assistant", "content": "", "tool_calls": [call]})


def _call_messages(calling: WatchedDict) -> list[Any]:
    return [
        {"role": "user", "content": "User message"},
        calling,
        {"role": "tool", "content": "Tool response", "tool_call_id": "call00001"},
        {"role": "assistant", "content": "The tool response was 'tool response'"},
        {"role": "user", "content": "User message"},
    ]


_PARAMETERS = {
    "type": "object",
    "properties": {"arg": {"type": "string", "description": "Arg description"}},
    "required": ["arg"],
}
_TOOLS = [
    {
        "name": "tool",
        "type": "function",
        "function": {"name": "tool1", "description": "Tool description", "parameters": _PARAMETERS},
    }
]


def _watched(message: dict[str, Any]) -> WatchedDict:
    watched = WatchedDict(message)
    watched.seen = set()
    return watched


def _tried(template: jinja2.Template, messages: Sequence[Any], tools: Sequence[Any] = ()) -> str | None:
    """Return the rendering, None where it fails."""
    return rendered(template, {"messages": messages, "tools": list(tools), "add_generation_prompt": True})


def rendered(template: jinja2.Template, variables: dict[str, Any]) -> str | None:
    """Return the rendering without special tokens; None where it fails, for whatever reason."""
    try:
        return template.render({"bos_token": "", "eos_token": "", **variables})
    except Unpredictable:
        raise
    except Exception:  # noqa: BLE001 — a template can raise anything, and llama.cpp looks at none of it
        return None
