"""The tokens of a Go template: text, and what stands between {{ and }}.

Knows the trim markers, comments, literals and words of Go 1.27's text/template. Does not know grammar.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chat_templates.dialects.gotemplate_values import from_bytes, to_bytes
from errors import TemplateError

__all__ = ["Token", "failure", "literal", "tokens", "unquote"]

SPACES = " \t\r\n"
KEYWORDS = frozenset(
    ("block", "break", "continue", "define", "else", "end", "if", "range", "template", "with")
)
_NUMBER = re.compile(
    r"[+-]?(?:0[xX][0-9a-fA-F_]*\.?[0-9a-fA-F_]*(?:[pP][+-]?[0-9_]*)?|0[oO][0-7_]*\.?[0-7_]*"
    r"|0[bB][01_]*\.?[01_]*|[0-9_]*\.?[0-9_]*(?:[eE][+-]?[0-9_]*)?)"
)
_QUOTED = re.compile(r'"(?:\\[^\n]|[^"\\\n])*"')
_CHARACTER = re.compile(r"'(?:\\[^\n]|[^'\\\n])*'")
_RAW = re.compile(r"`[^`]*`")
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"])|([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))"
)
_SIMPLE = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34}
_PUNCTUATION = {"=": "assign", "|": "pipe", "(": "(", ")": ")"}


@dataclass(frozen=True)
class Token:
    """One token; `kind` is text, {{, }}, space, word, keyword, bool, nil, field, variable, dot, number,
    character, string, pipe, declare, assign, (, ), other or end; `value` its text in the source."""

    kind: str
    value: str
    line: int


def failure(line: int, what: str) -> TemplateError:
    return TemplateError(f"The Go template fails in line {line}: {what}.")


def tokens(text: str) -> Iterator[Token]:
    """Yield the tokens of `text`, with an `end` at the end. Raises `TemplateError` with the line."""
    position, trim = 0, False
    while True:
        opening = text.find("{{", position)
        piece = text[position:] if opening < 0 else text[position:opening]
        if trim:
            piece = piece.lstrip(SPACES)
        inner = opening + 2
        if opening >= 0 and text[inner : inner + 1] == "-" and text[inner + 1 : inner + 2] in tuple(SPACES):
            piece, inner = piece.rstrip(SPACES), inner + 2
        if piece:
            yield Token("text", piece, _line(text, position))
        if opening < 0:
            yield Token("end", "", _line(text, len(text)))
            return
        if text.startswith("/*", inner):
            position, trim = _comment(text, inner)
        else:
            yield Token("{{", "{{", _line(text, opening))
            action = _Action(text, inner)
            yield from action.tokens()
            position, trim = action.position, action.trim


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _closing(text: str, position: int) -> int:
    """Return the length of the right delimiter at `position`: 2, 4 with a trim marker, or 0."""
    if text.startswith("}}", position):
        return 2
    return 4 if text[position : position + 1] in tuple(SPACES) and text.startswith("-}}", position + 1) else 0


def _comment(text: str, position: int) -> tuple[int, bool]:
    end = text.find("*/", position + 2)
    if end < 0:
        raise failure(_line(text, position), "unclosed comment")
    length = _closing(text, end + 2)
    if not length:
        raise failure(_line(text, end), "comment ends before closing delimiter")
    return end + 2 + length, length == 4


class _Action:
    """The tokens of one action; afterwards `position` is behind it and `trim` says whether to trim."""

    def __init__(self, text: str, position: int) -> None:
        self.text, self.position, self.trim = text, position, False
        self.line, self.depth = _line(text, position), 0

    def tokens(self) -> Iterator[Token]:
        while not (length := _closing(self.text, self.position)):
            if self.position >= len(self.text):
                raise failure(self.line, "unclosed action")
            yield self._next()
        if self.depth:
            raise failure(self.line, "unclosed left paren")
        yield Token("}}", "}}", self.line)
        self.position, self.trim = self.position + length, length == 4

    def _take(self, kind: str, end: int) -> Token:
        token = Token(kind, self.text[self.position : end], self.line)
        self.line += token.value.count("\n")
        self.position = end
        return token

    def _next(self) -> Token:  # noqa: PLR0911 - one return a kind of token
        text, start = self.text, self.position
        character, after = text[start], text[start + 1 : start + 2]
        if character in SPACES:
            return self._space()
        if character == ":" and after == "=":
            return self._take("declare", start + 2)
        if character in "\"`'":
            return self._literal(character)
        if character in "+-" or "0" <= character <= "9" or (character == "." and "0" <= after <= "9"):
            return self._number()
        if character in "$.":
            return self._name(start + 1)
        if _alphanumeric(character):
            return self._name(start)
        if character in "()":
            self.depth += 1 if character == "(" else -1
            if self.depth < 0:
                raise failure(self.line, "unexpected right paren")
        if character != ":" and character.isascii() and character.isprintable():
            return self._take(_PUNCTUATION.get(character, "other"), start + 1)
        raise failure(self.line, f"unrecognized character {character!r} in an action")

    def _space(self) -> Token:
        end = self.position
        while end < len(self.text) and self.text[end] in SPACES and not _closing(self.text, end):
            end += 1
        return self._take("space", end)

    def _literal(self, mark: str) -> Token:
        pattern = {'"': _QUOTED, "`": _RAW, "'": _CHARACTER}[mark]
        found = pattern.match(self.text, self.position)
        if not found:
            raise failure(self.line, "unterminated quoted string")
        return self._take("character" if mark == "'" else "string", found.end())

    def _number(self) -> Token:
        found = _NUMBER.match(self.text, self.position)
        end = found.end() if found else self.position
        if not found or _alphanumeric(self.text[end : end + 1]) or self.text[end : end + 1] in ("+", "-"):
            raise failure(self.line, f"bad number syntax: {self.text[self.position : end + 1]!r}")
        return self._take("number", end)

    def _name(self, first: int) -> Token:
        end = first
        while _alphanumeric(self.text[end : end + 1]):
            end += 1
        follows = self.text[end : end + 1]
        if follows and follows not in SPACES + ".,|:)(" and not self.text.startswith("}}", end):
            raise failure(self.line, f"bad character {follows!r}")
        word = self.text[self.position : end]
        return self._take(_kind_of_name(word), end)


def _kind_of_name(word: str) -> str:
    if word[0] == "$":
        return "variable"
    if word[0] == ".":
        return "dot" if word == "." else "field"
    if word in KEYWORDS:
        return "keyword"
    return {"true": "bool", "false": "bool", "nil": "nil"}.get(word, "word")


def _alphanumeric(character: str) -> bool:
    return character == "_" or (
        character != "" and (character.isalpha() or unicodedata.category(character) == "Nd")
    )


def unquote(token: Token) -> str:
    """Return the value of a Go string or character literal. Raises `TemplateError` for a bad escape."""
    mark, body = token.value[0], token.value[1:-1]
    if mark == "`":
        return body.replace("\r", "")
    out, position = bytearray(), 0
    while position < len(body):
        if body[position] != "\\":
            out += to_bytes(body[position])
            position += 1
            continue
        found = _ESCAPE.match(body, position)
        if not found or (found[1] in ("'", '"') and found[1] != mark):
            raise failure(token.line, f"invalid escape in {token.value}")
        out += _escaped(found, token)
        position = found.end()
    return from_bytes(bytes(out))


def _escaped(found: re.Match[str], token: Token) -> bytes:
    simple, octal, byte, short, long = found.groups()
    if simple:
        return bytes((_SIMPLE[simple],))
    if octal or byte:
        code = int(octal, 8) if octal else int(byte, 16)
        if code < 256:
            return bytes((code,))
    else:
        code = int(short or long, 16)
        if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF:
            return chr(code).encode()
    raise failure(token.line, f"invalid escape in {token.value}")


def literal(token: Token) -> Any:
    """Return the value of a boolean, string, character or number. Raises `TemplateError`."""
    if token.kind == "bool":
        return token.value == "true"
    if token.kind == "string":
        return unquote(token)
    if token.kind == "character":
        value = unquote(token)
        if len(value) != 1:
            raise failure(token.line, f"malformed character constant {token.value}")
        return ord(value) - 0xDC00 if 0xDC80 <= ord(value) <= 0xDCFF else ord(value)
    return _number(token)


def _number(token: Token) -> int | float:
    """Return the number Go means; its literals are Python's but for old octal and hexadecimal floats."""
    word = token.value
    digits = word.lstrip("+-")
    sign = -1 if word.startswith("-") else 1
    try:
        if len(digits) > 1 and digits[0] == "0" and digits.replace("_", "").isdigit():
            return _whole(sign * int(digits.lstrip("0_") or "0", 8), token)
        value = ast.literal_eval(digits)
    except (ValueError, SyntaxError) as error:
        raise failure(token.line, f"illegal number syntax: {word!r}") from error
    return _whole(sign * value, token) if isinstance(value, int) else sign * float(value)


def _whole(value: int, token: Token) -> int:
    if not -(2**63) <= value < 2**63:
        raise failure(token.line, f"{token.value} overflows int")
    return value
