"""Texts as Jinja expressions: quoted literals, dates between them, and what is put together of them."""

from __future__ import annotations

from chat_templates.dates import pieces
from chat_templates.template import ChatTemplate

__all__ = ["joined", "literal", "out", "refuse", "trimmed"]

_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def joined(prefix: str, expression: str, suffix: str) -> str:
    parts = [literal(prefix) if prefix else "", expression, literal(suffix) if suffix else ""]
    return " + ".join(part for part in parts if part)


def out(text: str) -> str:
    return f"{{{{- {literal(text)} }}}}"


def refuse(text: str) -> str:
    return f"{{{{- raise_exception({literal(text)}) }}}}"


def literal(text: str) -> str:
    """Return an expression for `text`: Jinja strings, and calls for today's date between them."""
    parts = [f"strftime_now({_quoted(part)})" if date else _quoted(part) for part, date in pieces(text)]
    return " + ".join(parts) or "''"


def _quoted(text: str) -> str:
    """Return `text` as a Jinja string that no lexer can end early or rewrite."""
    return "'" + "".join(_ESCAPES.get(character, character) for character in text) + "'"


def trimmed(form: ChatTemplate, role: str) -> str:
    return "(content | trim)" if role in form.trimmed else "content"
