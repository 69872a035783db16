"""The filters and methods of llama.cpp's Jinja, by the kind of value that has them.

Texts are bytes there: lengths, cuts and white space know ASCII only.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2
import jinja2.utils

from .values import SPACE, Unpredictable, Watched, WatchedDict, WatchedList, note, text_of

__all__ = ["character", "filters", "method"]

_STRING = frozenset(
    (
        *("capitalize", "default", "endswith", "float", "format", "indent", "int", "length"),
        *("lower", "lstrip", "replace", "rsplit", "rstrip", "safe", "split", "startswith"),
        *("string", "strip", "title", "tojson", "upper"),
    )
)
_LIST = frozenset(
    (
        *("append", "default", "first", "join", "last", "length", "list", "map"),
        *("max", "min", "pop", "reject", "rejectattr", "reverse", "select", "selectattr"),
        *("sort", "string", "tojson"),
    )
)
_DICT = frozenset(("dictsort", "get", "items", "keys", "length", "string", "tojson", "values"))
_NUMBER = frozenset(("abs", "default", "float", "int", "safe", "string", "tojson"))
_NONE = frozenset(
    (
        *("default", "items", "map", "reject", "rejectattr", "safe", "select", "selectattr"),
        *("string", "tojson"),
    )
)
_UNDEFINED = frozenset(
    (
        *("capitalize", "default", "first", "items", "join", "last", "length", "list"),
        *("lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse"),
        *("safe", "select", "selectattr", "sort", "string", "strip", "sum", "title"),
        *("truncate", "unique", "upper", "wordcount"),
    )
)
_MADE_TEXTS = frozenset(("capitalize", "lower", "replace", "strip", "title", "upper", "wordcount"))
"""Filters in front of which any value becomes a text."""
_ALIASES = {"count": "length", "d": "default", "trim": "strip"}
_LOOP = frozenset(
    (
        *("first", "index", "index0", "last", "length", "nextitem", "previtem", "revindex"),
        *("revindex0",),
    )
)
_UPPER = str.maketrans({chr(c): chr(c - 32) for c in range(97, 123)})
_LOWER = str.maketrans({chr(c): chr(c + 32) for c in range(65, 91)})


def character(environment: jinja2.Environment, text: str, argument: Any) -> Any:
    """Return what `text[argument]` is, where positions count bytes."""
    if isinstance(argument, slice):
        parts = (argument.start, argument.stop, argument.step)
        if not text.isascii() and any(part not in (None, 0, 1) for part in parts):
            raise Unpredictable("the template cuts a text by position, which llama.cpp counts in bytes")
        return str(text)[argument]
    if isinstance(argument, int):
        note(text, "array")
        encoded = text.encode()
        if not 0 <= argument < len(encoded):
            return environment.undefined(obj=text, name=str(argument))
        if not text.isascii():
            raise Unpredictable("the template takes one character of a text, which llama.cpp counts in bytes")
        return chr(encoded[argument])
    found = method(environment, text, argument) if isinstance(argument, str) else None
    return environment.undefined(obj=text, name=argument) if found is None else found


def method(environment: jinja2.Environment, value: Any, name: str) -> Any:
    """Return the method `name` of a value, an undefined where llama.cpp has none; None to look elsewhere."""
    if isinstance(value, str):
        if name == "selectattr":
            note(value, "array")
        if name in _STRING and name not in _TEXT:
            raise Unpredictable(f"the template calls {name} of a text")
        return functools.partial(_TEXT[name], value) if name in _TEXT else environment.undefined(name=name)
    if isinstance(value, jinja2.Undefined):
        found = environment.undefined(name=name)
        return (lambda *_, **__: _EMPTY.get(name, "")) if name in _UNDEFINED else found
    if isinstance(value, dict | jinja2.utils.Namespace) and name in _DICT and not _has_method(value, name):
        return _foreign
    lacking = (
        (isinstance(value, list) and name not in _LIST)
        or (isinstance(value, dict) and hasattr(dict, name) and name not in _DICT and name not in value)
        or (type(value).__name__ == "LoopContext" and name not in _LOOP)
    )
    return environment.undefined(obj=value, name=name) if lacking else None


def _has_method(value: Any, name: str) -> bool:
    return isinstance(value, dict) and hasattr(dict, name)


def _foreign(*_args: Any, **_kwargs: Any) -> Any:
    """Stand for a method that objects have in llama.cpp only; an item of that name is behind it."""
    raise Unpredictable("the template calls a method of an object that only llama.cpp's Jinja has")


def _split(text: str, separator: Any = " ", maximum: int = -1) -> list[str]:
    return str(text).split(text_of(separator), maximum)


def _rsplit(text: str, separator: Any = " ", maximum: int = -1) -> list[str]:
    return str(text).rsplit(text_of(separator), maximum)


def _formatted(text: str, *values: Any) -> str:
    first, *rest = str(text).split("{}")
    if any("{" in piece for piece in (first, *rest)) or len(rest) > len(values):
        raise jinja2.TemplateError("llama.cpp's format knows `{}` only, with a value for each")
    pairs = zip(values, rest, strict=False)
    return first + "".join(text_of(value) + piece for value, piece in pairs)


def _capitalized(text: str) -> str:
    return str(text)[:1].translate(_UPPER) + str(text)[1:].translate(_LOWER)


def _titled(text: str) -> str:
    starts = [True, *(character in SPACE for character in text)]
    pairs = zip(text, starts, strict=False)
    return "".join(character.translate(_UPPER if start else _LOWER) for character, start in pairs)


_TEXT: Mapping[str, Callable[..., Any]] = {
    "strip": lambda text, chars=SPACE: str(text).strip(chars),
    "lstrip": lambda text, chars=SPACE: str(text).lstrip(chars),
    "rstrip": lambda text, chars=SPACE: str(text).rstrip(chars),
    "upper": lambda text: str(text).translate(_UPPER),
    "lower": lambda text: str(text).translate(_LOWER),
    "split": _split,
    "rsplit": _rsplit,
    "startswith": lambda text, other: str(text).startswith(text_of(other)),
    "endswith": lambda text, other: str(text).endswith(text_of(other)),
    "replace": lambda text, old, new: str(text).replace(text_of(old), text_of(new)),
    "title": _titled,
    "capitalize": _capitalized,
    "format": _formatted,
    "length": lambda text: len(text.encode()),
}


def filters(usual: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Return the filters that llama.cpp has, by name; `usual` are jinja2's."""
    own: dict[str, Callable[..., Any]] = {
        **{name: _TEXT[name] for name in ("strip", "upper", "lower", "title", "capitalize", "replace")},
        **{name: _TEXT[name] for name in ("lstrip", "rstrip", "split", "rsplit", "startswith", "endswith")},
        "format": _formatted,
        "length": lambda value: len(value.encode()) if isinstance(value, str) else len(value),
        "string": _string,
        "safe": lambda value: value if isinstance(value, str) else text_of(value),
        "default": _default,
        "tojson": _tojson,
    }
    names = _STRING | _LIST | _DICT | _NUMBER | _UNDEFINED
    found = {name: own.get(name) or usual[name] for name in names if name in own or name in usual}
    found |= {alias: found[name] for alias, name in _ALIASES.items()}
    return {name: _typed(_ALIASES.get(name, name), function) for name, function in found.items()}


def _typed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter so that it is only there for the kinds of values that have it in llama.cpp."""
    at = 1 if hasattr(function, "jinja_pass_arg") else 0

    def applied(*args: Any, **kwargs: Any) -> Any:
        value = args[at]
        if isinstance(value, jinja2.Undefined):
            if name not in _UNDEFINED:
                raise jinja2.TemplateError(f"llama.cpp has no filter {name} for something undefined")
            return function(*args, **kwargs) if name == "default" else _EMPTY.get(name, "")
        if name in _MADE_TEXTS:
            value = text_of(value)
        if isinstance(value, Watched) and name == "selectattr":
            note(value, "array")
        if name not in _of_kind(value):
            raise jinja2.TemplateError(f"llama.cpp has no filter {name} for a {type(value).__name__}")
        if isinstance(value, WatchedList):
            if name in ("selectattr", "rejectattr"):
                note(value, "array")
            value = value if name == "default" else []
        found = function(*args[:at], value, *args[at + 1 :], **kwargs)
        return list(found) if isinstance(found, Iterator) else found

    return functools.wraps(function)(applied)


_EMPTY: Mapping[str, Any] = {
    **dict.fromkeys(("length", "sum", "wordcount"), 0),
    **{
        name: []
        for name in ("items", "list", "map", "reject", "rejectattr", "reverse", "select", "selectattr")
    },
    **{name: [] for name in ("sort", "unique")},
}


def _of_kind(value: Any) -> frozenset[str]:
    if isinstance(value, str):
        return _STRING
    if value is None:
        return _NONE
    if isinstance(value, bool | int | float):
        return _NUMBER
    return _DICT if isinstance(value, Mapping) else _LIST


def _string(value: Any) -> str:
    if isinstance(value, WatchedDict):
        value.seen.update(value)
    return text_of(value)


def _default(value: Any, default: Any = "", boolean: bool = False) -> Any:
    missing = isinstance(value, jinja2.Undefined) or value is None
    return default if missing or (boolean and not value) else value


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if sort_keys:
        raise jinja2.TemplateError("llama.cpp's tojson does not sort keys")
    if _has_float(value):
        raise Unpredictable("the template writes a number that is not whole as JSON")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators)


def _has_float(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, float) or any(_has_float(item) for item in items)
