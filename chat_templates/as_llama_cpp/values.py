"""Values as llama.cpp's Jinja treats them, and what it makes a text of.

A value that is watched tells how a template reads it (see `abilities`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jinja2

__all__ = [
    "SPACE",
    "Undefined",
    "Unpredictable",
    "Watched",
    "WatchedDict",
    "WatchedList",
    "gone_through",
    "is_in",
    "joined",
    "note",
    "objects_in_texts",
    "shown",
    "text_of",
]

SPACE = " \t\n\v\f\r"
"""What `trim` and `strip` take off: no character beyond ASCII."""

objects_in_texts: list[str] = []
"""What lists and objects became part of a text, so that `abilities` can tell."""


class Unpredictable(Exception):
    """What llama.cpp would write here is not known; the message says why."""


class Undefined(jinja2.Undefined):
    """Added to a text, it is an empty one."""

    def __add__(self, other: Any) -> Any:
        return other if isinstance(other, str) else self._fail_with_undefined_error()

    def __radd__(self, other: Any) -> Any:
        return other if isinstance(other, str) else self._fail_with_undefined_error()


class Watched(str):
    """A content that remembers how a template reads it."""

    __slots__ = ("seen",)
    seen: set[str]


class WatchedList(list[Any]):
    """The same for an empty list of parts."""

    seen: set[str]

    def __iter__(self) -> Any:
        self.seen.add("array")
        return super().__iter__()


class WatchedDict(dict[str, Any]):
    """A message, or a call's arguments, that remembers whether its values are read."""

    seen: set[str]

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        self.seen.add(name)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(f"get {name}")  # counts only where the value is named afterwards
        return super().get(name, default)

    def items(self) -> Any:
        self.seen.update(self)
        return super().items()

    def values(self) -> Any:
        self.seen.update(self)
        return super().values()


def note(value: Any, how: str) -> None:
    """Note that a template does `how` with a value, if it is watched."""
    if isinstance(value, Watched | WatchedList):
        value.seen.add(how)


# texts


def text_of(value: Any) -> str:
    """Return the text that a value becomes where one is needed."""
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int):
        return str(value)
    if isinstance(value, Mapping | list):
        objects_in_texts.append(type(value).__name__)
    if isinstance(value, Mapping):
        pairs = dict.items(value) if isinstance(value, dict) else value.items()  # a text reads none of them
        items = (f"{_within(key)}: {_within(item)}" for key, item in pairs)
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_within, value))}]"
    raise Unpredictable(f"the template turns a {type(value).__name__} into a text")


def _within(value: Any) -> str:
    """Return a value inside the text of a list or an object."""
    if not isinstance(value, str):
        return text_of(value)
    return json.dumps(value, ensure_ascii=False) if "'" in value else f"'{value}'"


def shown(value: Any) -> Any:
    """Return what stands in the prompt for a value: nothing for None, the items of a list."""
    if isinstance(value, str | jinja2.Undefined) or type(value) in (bool, int):
        return value
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return "".join(str(shown(item)) for item in value)
    raise Unpredictable(f"the template writes a {type(value).__name__}")


def joined(left: Any, right: Any) -> str:
    """Return two values as one text; one of them has to be a text."""
    nothing = (type(None), jinja2.Undefined)
    if not isinstance(left, str) and not isinstance(right, str):
        raise jinja2.TemplateError("`~` needs a text in llama.cpp")
    return "".join("" if isinstance(value, nothing) else text_of(value) for value in (left, right))


def gone_through(value: Any) -> Any:
    """Return what a loop goes through: a list, or an object's names."""
    note(value, "array")
    if isinstance(value, str | int | None):
        raise jinja2.TemplateError(
            f"llama.cpp goes through lists and objects only, not a {type(value).__name__}"
        )
    return value


def is_in(value: Any, holder: Any) -> bool:
    """Return whether `value in holder`; what is undefined is in nothing undefined, and an error elsewhere."""
    if isinstance(holder, jinja2.Undefined):
        return False
    if isinstance(value, jinja2.Undefined) or holder is None:
        raise jinja2.TemplateError("llama.cpp cannot look for that")
    if isinstance(holder, str) and not isinstance(value, str):
        raise jinja2.TemplateError("llama.cpp looks for a text in a text only")
    return value in holder
