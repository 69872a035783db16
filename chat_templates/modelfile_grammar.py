"""Reading a Modelfile exactly as Ollama does.

Knows Ollama's grammar: three ways of quoting, no escapes, unprintable characters dropped. Does not know
what the values mean, but for the types of parameters.
"""

from __future__ import annotations

import re
from typing import Any

from chat_templates.dialects.gotemplate_values import is_print
from chat_templates.modelfile import Modelfile, typed
from errors import TemplateError

__all__ = ["dropped", "parse"]

_COMMANDS = frozenset(
    (
        *("from", "license", "template", "system", "adapter", "draft", "renderer", "parser"),
        *("parameter", "message", "requires"),
    )
)
_BETWEEN = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_COMMAND = re.compile(r"([A-Za-z]+)[ \t]")
_PARAMETER = re.compile(r"([A-Za-z0-9_]*)[ \t]")
_ROLE = re.compile(r"(system|user|assistant)[ \t]")
_WORD = re.compile(r"[^ \t\r\n]*")
_LINE = re.compile(r"[^\r\n]*")


def dropped(text: str) -> str:
    """Return the characters of `text` that Ollama silently leaves out of any Modelfile value."""
    return "".join(character for character in text if not _kept(character))


def parse(text: str) -> Modelfile:
    """Return what Ollama reads in `text`. Raises `TemplateError` with the line where Ollama fails."""
    found: dict[str, Any] = {"parameters": [], "messages": [], "license": []}
    text = text.removeprefix("\ufeff")
    position = _end(_BETWEEN, text, 0)
    while position < len(text):
        position = _end(_BETWEEN, text, _one(text, position, found))
    if "from_" not in found:
        raise TemplateError("The Modelfile has no FROM line.", hint="Begin it with FROM ./model.gguf.")
    lists = {key: tuple(value) for key, value in found.items() if isinstance(value, list)}
    return Modelfile(**{**found, **lists})


def _one(text: str, position: int, found: dict[str, Any]) -> int:
    """Read the command at `position` into `found`; return the position behind it."""
    match = _COMMAND.match(text, position)
    command = match[1].lower() if match else ""
    if not match or command not in _COMMANDS:
        raise _failure(
            text,
            position,
            f"{text[position : min(_end(_WORD, text, position), position + 40)]!r} is not a command",
        )
    if command == "parameter":
        name = _after(_PARAMETER, text, match.end(), "a parameter has no name and value")
        value, end = _value(text, name.end())
        found["parameters"].append((name[1], typed(name[1], value)))
    elif command == "message":
        role = _after(_ROLE, text, match.end(), "a message's role is not system, user or assistant")
        value, end = _value(text, role.end())
        found["messages"].append((role[1], value))
    else:
        value, end = _value(text, match.end())
        if command == "license":
            found["license"].append(value)
        elif command == "draft":
            raise _failure(text, position, "DRAFT models are not supported")
        else:
            found["from_" if command == "from" else command] = value
    return end


def _value(text: str, position: int) -> tuple[str, int]:
    """Return the value at `position` and where it ends: at the first line end that leaves it whole."""
    start = position
    while True:
        position = _end(_LINE, text, position)
        value = _unquoted(text[start:position])
        if value is not None:
            return value, position
        if position >= len(text):
            raise _failure(text, start, "a quoted value does not end")
        position += 1


def _unquoted(raw: str) -> str | None:
    """Return the value that `raw` stands for, None when its closing quotes are still to come."""
    text = "".join(filter(_kept, raw)).strip(" \t\r\n")
    if text.startswith('"""'):
        return text[3:-3] if len(text) >= 6 and text.endswith('"""') else None
    if text.startswith('"'):
        return text[1:-1] if len(text) >= 2 and text.endswith('"') else None
    return text


def _kept(character: str) -> bool:
    return character in "\t\r\n" or is_print(character)


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _after(pattern: re.Pattern[str], text: str, position: int, what: str) -> re.Match[str]:
    match = pattern.match(text, position)
    if match is None:
        raise _failure(text, position, what)
    return match


def _failure(text: str, position: int, what: str) -> TemplateError:
    line = text.count("\n", 0, position) + 1
    return TemplateError(f"The Modelfile cannot be read in line {line}: {what}.")
