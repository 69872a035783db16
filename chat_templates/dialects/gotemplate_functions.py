"""The functions a template can call in Ollama: Go's predefined ones and Ollama's own.

Knows eq ne lt le gt ge not len index slice print printf println html urlquery json currentDate and
yesterdayDate. `and` and `or` stop early and live in the evaluator; `call`, `js` and toTypeScriptType are
not supported. Every function raises ValueError with Go's complaint.
"""

from __future__ import annotations

import datetime
import re
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

from chat_templates.dialects.gotemplate_values import (
    Byte,
    JsonList,
    JsonMap,
    display,
    from_bytes,
    kind,
    quote,
    to_bytes,
    to_json,
    truth,
    type_name,
)

__all__ = ["FUNCTIONS", "Function", "functions_on"]

_VERB = re.compile(r"%([-+# 0]*)(\d*)(?:\.(\d*))?(.)?", re.DOTALL)
_HTML = {"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"}


def _equal(first: Any, second: Any) -> bool:
    kinds = {kind(first), kind(second)}
    if first is None or second is None:
        return first is second
    if kinds == {"invalid"} or (len(kinds) > 1 and kinds != {"int", "uint"}):
        raise ValueError(f"incompatible types for comparison: {type_name(first)} and {type_name(second)}")
    return bool(first == second)


def _eq(first: Any, *others: Any) -> bool:
    if not others:
        raise ValueError("missing argument for comparison")
    return any(_equal(first, other) for other in others)


def _lt(first: Any, second: Any) -> bool:
    kinds = {kind(first), kind(second)}
    if not kinds <= {"int", "uint"} and (len(kinds) > 1 or kinds & {"bool", "invalid"}):
        raise ValueError(f"incompatible types for comparison: {type_name(first)} and {type_name(second)}")
    if isinstance(first, str):
        return to_bytes(first) < to_bytes(second)
    return bool(first < second)


def _le(first: Any, second: Any) -> bool:
    return _lt(first, second) or _equal(first, second)


def _length(item: Any) -> int:
    if isinstance(item, str):
        return len(to_bytes(item))
    if isinstance(item, list | dict):
        return len(item)
    raise ValueError(f"len of type {type_name(item)}")


def _position(index: Any, bound: int) -> int:
    if isinstance(index, bool) or not isinstance(index, int):
        raise ValueError(f"cannot index slice/array with type {type_name(index)}")
    if not 0 <= index <= bound:
        raise ValueError(f"index out of range: {index}")
    return index


def _index(item: Any, *indexes: Any) -> Any:
    if item is None:
        raise ValueError("index of untyped nil")
    for index in indexes:
        if isinstance(item, dict):
            if not isinstance(index, str):
                raise ValueError(f"value has type {type_name(index)}; should be string")
            item = item.get(index)
        elif isinstance(item, str):
            item = Byte(to_bytes(item)[_position(index, _length(item) - 1)])
        elif isinstance(item, list):
            item = item[_position(index, len(item) - 1)]
        else:
            raise ValueError(f"can't index item of type {type_name(item)}")
    return item


def _slice(item: Any, *indexes: Any) -> Any:
    if not isinstance(item, str | list):
        raise ValueError(f"can't slice item of type {type_name(item)}")
    if len(indexes) > (2 if isinstance(item, str) else 3):
        raise ValueError(f"too many slice indexes: {len(indexes)}")
    data = to_bytes(item) if isinstance(item, str) else item
    bounds = [_position(index, len(data)) for index in indexes]
    start, stop = (*bounds[:2], *(0, len(data))[len(bounds[:2]) :])
    if [start, stop, *bounds[2:]] != sorted([start, stop, *bounds[2:]]):
        raise ValueError(f"invalid slice index: {start} > {stop}")
    part = data[start:stop]
    return from_bytes(part) if isinstance(part, bytes) else part


def _joined(parts: Sequence[str]) -> str:
    """Concatenate Go strings: bytes that meet may form a character."""
    return from_bytes(b"".join(map(to_bytes, parts)))


def _print(*values: Any) -> str:
    out: list[str] = []
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            out.append(" ")
        out.append(display(value))
    return _joined(out)


def _println(*values: Any) -> str:
    return _joined([" ".join(map(display, values)), "\n"])


def _printf(pattern: Any, *values: Any) -> str:
    if not isinstance(pattern, str):
        raise ValueError(f"wrong type for value; expected string; got {type_name(pattern)}")
    rest = list(values)

    def one(found: re.Match[str]) -> str:
        verb = found[4]
        if verb is None:
            return "%!(NOVERB)"
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        return _padded(found, _formatted(verb, rest.pop(0), found))

    text = _VERB.sub(one, pattern)
    if rest:
        text += "%!(EXTRA " + ", ".join(map(_described, rest)) + ")"
    return _joined([text])


def _padded(found: re.Match[str], text: str) -> str:
    width, flags = int(found[2] or 0), found[1]
    if width > 10_000:
        raise ValueError("printf: the width is too large")
    return text.ljust(width) if "-" in flags else text.rjust(width)


def _formatted(verb: str, value: Any, found: re.Match[str]) -> str:
    if set(found[1]) - {"-"} or verb not in "vsdqtcf" or (found[3] is not None and verb != "f"):
        raise ValueError(f"printf: Portside's interpreter does not know {found[0]!r}")
    if isinstance(value, JsonMap | JsonList):
        value = display(value)
    if verb == "v":
        return display(value)
    return f"%!{verb}(<nil>)" if value is None else _verb(verb, value, int(found[3] or 0) if found[3] else 6)


def _verb(verb: str, value: Any, digits: int) -> str:  # noqa: PLR0911 - one return a type
    """Return `value` under a verb other than %v, which a container hands on to all it holds."""
    of = kind(value)
    if value is None:
        return "<nil>"
    if isinstance(value, list):
        return "[" + " ".join(_verb(verb, item, digits) for item in value) + "]"
    if isinstance(value, dict):
        pairs = (f"{_verb(verb, k, digits)}:{_verb(verb, v, digits)}" for k, v in sorted(value.items()))
        return "map[" + " ".join(pairs) + "]"
    if of == "string" and verb in "sq":
        return str(value) if verb == "s" else quote(value)
    if of == "float" and verb == "f":
        return f"{value:.{digits}f}"
    if of in ("int", "uint") and verb in "dcq":
        return _integer(verb, value)
    if of == "bool" and verb == "t":
        return display(value)
    return f"%!{verb}({_described(value)})"


def _integer(verb: str, value: int) -> str:
    if verb == "d":
        return f"{value:d}"
    character = chr(value) if 0 <= value <= 0x10FFFF and not 0xD800 <= value <= 0xDFFF else "\ufffd"
    if verb == "c":
        return character
    text = quote(character)[1:-1]
    return {"'": "'\\''", '\\"': "'\"'"}.get(text, f"'{text}'")


def _described(value: Any) -> str:
    return "<nil>" if value is None else f"{type_name(value)}={display(value)}"


def _html(*values: Any) -> str:
    return "".join(_HTML.get(character, character) for character in _html_text(values))


def _html_text(values: tuple[Any, ...]) -> str:
    """Like Go's evalArgs: a single nil reads `<no value>`, several values are printed together."""
    return "<no value>" if values == (None,) else _print(*values)


def _urlquery(*values: Any) -> str:
    return urllib.parse.quote_plus(to_bytes(_html_text(values)), safe="~")


def _json(value: Any) -> str:
    return to_json(value)


def _date(today: datetime.date | None, days_ago: int) -> str:
    return ((today or datetime.date.today()) - datetime.timedelta(days=days_ago)).isoformat()


def functions_on(today: datetime.date | None) -> dict[str, Function]:
    """Return `FUNCTIONS` with `today` for the clock's date."""
    return {
        **FUNCTIONS,
        "currentDate": (lambda *_: _date(today, 0), 0, None),
        "yesterdayDate": (lambda *_: _date(today, 1), 0, None),
    }


Function = tuple[Callable[..., Any], int, int | None]
"""A function with the fewest and the most arguments it takes."""

FUNCTIONS: dict[str, Function] = {
    "eq": (_eq, 1, None),
    "ne": (lambda first, second: not _equal(first, second), 2, 2),
    "lt": (_lt, 2, 2),
    "le": (_le, 2, 2),
    "gt": (lambda first, second: not _le(first, second), 2, 2),
    "ge": (lambda first, second: not _lt(first, second), 2, 2),
    "not": (lambda value: not truth(value), 1, 1),
    "len": (_length, 1, 1),
    "index": (_index, 1, None),
    "slice": (_slice, 1, None),
    "print": (_print, 0, None),
    "printf": (_printf, 1, None),
    "println": (_println, 0, None),
    "html": (_html, 0, None),
    "urlquery": (_urlquery, 0, None),
    "json": (_json, 1, 1),
    "currentDate": (lambda *_: _date(None, 0), 0, None),
    "yesterdayDate": (lambda *_: _date(None, 1), 0, None),
}
"""Name to function, fewest and most arguments."""
