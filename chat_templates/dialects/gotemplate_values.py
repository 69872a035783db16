"""Values of a Go template as Go sees them: kinds, truth, printing, quoting, JSON.

Knows how Go 1.27's fmt, strconv and encoding/json write the values that Ollama hands to a template.
Does not know the template language. A Go string is bytes: here it is a `str` whose undecodable bytes are
lone surrogates (`surrogateescape`), so that slicing through a character loses nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from errors import TemplateError

__all__ = [
    "NIL",
    "Byte",
    "JsonList",
    "JsonMap",
    "JsonObject",
    "Nil",
    "Struct",
    "display",
    "float_text",
    "from_bytes",
    "is_print",
    "kind",
    "quote",
    "to_bytes",
    "to_json",
    "truth",
    "type_name",
]

_PRINTABLE = Path(__file__).with_name("go_printable.txt")
_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}
_JSON_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_BACKSLASHED = frozenset("<>&\u2028\u2029")


class Nil:
    """A nil held in an interface, as an element of a map or list; a plain nil is None."""


NIL = Nil()


class Byte(int):
    """A uint8, what `index` gives for a string."""


class JsonMap(dict[str, Any]):
    """A map that prints itself as JSON (the arguments of a tool call)."""


class JsonList(list[Any]):
    """A list that prints itself as JSON (the tools)."""


class JsonObject(dict[str, Any]):
    """What encoding/json writes for a struct or an ordered map: the keys stay in their order."""


@dataclass(frozen=True, eq=False)
class Struct:
    """A Go struct or a pointer to one: an unknown field is an error, unlike a map's missing key."""

    name: str
    fields: Mapping[str, Any]
    json: Any = field(default=None)
    """What encoding/json writes for it."""


def kind(value: Any) -> str:
    """Return the group in which Go compares `value`: bool, int, uint, float, string or invalid."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, Byte):
        return "uint"
    for python, name in ((int, "int"), (float, "float"), (str, "string")):
        if isinstance(value, python):
            return name
    return "invalid"


def type_name(value: Any) -> str:
    """Return Go's name of the value's type, for messages."""
    if isinstance(value, Struct):
        return value.name
    if isinstance(value, dict):
        return "map[string]interface {}"
    if isinstance(value, list):
        return "[]interface {}"
    names = {"bool": "bool", "uint": "uint8", "int": "int", "float": "float64", "string": "string"}
    return names.get(kind(value), "nil")


def truth(value: Any) -> bool:
    """Return whether Go's templates take `value` for true: anything that is not nil, zero or empty."""
    return True if isinstance(value, Struct) else not isinstance(value, Nil) and bool(value)


def to_bytes(text: str) -> bytes:
    """Return the bytes of a Go string. Raises `TemplateError` for a lone surrogate that is no byte."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise TemplateError(
            f"A text holds the lone surrogate U+{ord(text[error.start]):04X}, which is not Unicode text.",
            hint="Remove it; no engine can take it.",
        ) from error


def from_bytes(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


@cache
def _printable_bounds() -> tuple[int, ...]:
    """Return the sorted code points at which printable and not printable alternate, from U+0000."""
    lines = _PRINTABLE.read_text("ascii").splitlines()
    return tuple(int(word, 16) for line in lines if not line.startswith("#") for word in line.split())


def is_print(character: str) -> bool:
    """Return what Go's strconv.IsPrint says: letters, marks, numbers, punctuation, symbols and U+0020."""
    return bisect_right(_printable_bounds(), ord(character)) % 2 == 1


def quote(text: str) -> str:
    """Return `text` as a Go string literal, as strconv.Quote does: only printable characters are left."""
    return '"' + "".join(map(_quoted, text)) + '"'


def _quoted(character: str) -> str:
    code = ord(character)
    if character in _ESCAPES:
        return _ESCAPES[character]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if is_print(character):
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def display(value: Any) -> str:  # noqa: PLR0911 - one return a type
    """Return `value` as fmt's %v writes it. Raises `TemplateError` for a pointer (an address in Go)."""
    if value is None or isinstance(value, Nil):
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return float_text(value, small=-4, large=6)
    if isinstance(value, JsonMap | JsonList):
        return to_json(value)
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{display(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(display, value)) + "]"
    if isinstance(value, Struct):
        raise TemplateError(f"A Go template prints a whole {value.name}; print one of its fields.")
    return str(value)


def float_text(value: float, *, small: int, large: int) -> str:
    """Return the shortest digits of a float64, as `1e+06` for exponents outside [small, large)."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    sign = "-" if math.copysign(1, value) < 0 else ""
    mantissa, _, power = f"{abs(value)!r}".partition("e")
    whole, _, part = mantissa.partition(".")
    digits, point = whole + part, len(whole) + int(power or 0)
    stripped = digits.lstrip("0")
    point -= len(digits) - len(stripped)
    digits = stripped.rstrip("0") or "0"
    exponent = point - 1 if stripped else 0
    if small <= exponent < large:
        return sign + _positional(digits, exponent + 1)
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _positional(digits: str, point: int) -> str:
    if point <= 0:
        return "0." + "0" * -point + digits if digits != "0" else "0"
    padded = digits.ljust(point, "0")
    return padded[:point] + (f".{padded[point:]}" if padded[point:] else "")


def to_json(value: Any) -> str:  # noqa: PLR0911 - one return a type
    """Return what Ollama's `json` function writes: Go's compact JSON, with < > & as \\u003c and so on."""
    if value is None or isinstance(value, Nil):
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(map(_json_character, value)) + '"'
    if isinstance(value, float):
        text = float_text(value, small=-6, large=21)
        return text.replace("e-0", "e-") if "e" in text else text
    if isinstance(value, dict):
        items = value.items() if isinstance(value, JsonObject) else sorted(value.items())
        return "{" + ",".join(f"{to_json(k)}:{to_json(v)}" for k, v in items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(to_json, value)) + "]"
    return to_json(value.json) if isinstance(value, Struct) else str(value)


def _json_character(character: str) -> str:
    code = ord(character)
    if character in _JSON_ESCAPES:
        return _JSON_ESCAPES[character]
    if 0xDC80 <= code <= 0xDCFF:
        return "\ufffd"
    return f"\\u{code:04x}" if code < 0x20 or character in _BACKSLASHED else character
