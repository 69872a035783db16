"""Today's date in Ollama's Go templates, which have it as `currentDate`, "2026-11-22", and nothing else.

Knows which strftime directives can be cut out of that text or named by comparing it. Does not know templates.
"""

from __future__ import annotations

import calendar
import re

from chat_templates.dates import pieces
from chat_templates.dialects.base import DialectRefused
from chat_templates.dialects.gotemplate_values import quote

__all__ = ["DECLARATION", "date_definitions", "literal"]

DECLARATION = "{{- $today := currentDate }}"
"""Goes before the first `literal` that holds a date."""

_NAMES = {
    "%b": tuple(calendar.month_abbr)[1:],
    "%h": tuple(calendar.month_abbr)[1:],
    "%B": tuple(calendar.month_name)[1:],
}


def _without_zero(start: int, instead: str = "") -> str:
    """Return actions for the two digits at `start` with `instead` in the place of a leading zero."""
    tens, ones, both = f"{start} {start + 1}", f"{start + 1} {start + 2}", f"{start} {start + 2}"
    zero = f"{instead}{{{{ slice $today {ones} }}}}"
    otherwise = f"{{{{ else }}}}{{{{ slice $today {both} }}}}{{{{ end }}}}"
    return f'{{{{ if eq (slice $today {tens}) "0" }}}}{zero}{otherwise}'


_DIRECTIVES = {
    "%Y": "{{ slice $today 0 4 }}",
    "%y": "{{ slice $today 2 4 }}",
    "%m": "{{ slice $today 5 7 }}",
    "%d": "{{ slice $today 8 10 }}",
    "%F": "{{ $today }}",
    "%%": '{{ "%" }}',
    "%-m": _without_zero(5),
    "%-d": _without_zero(8),
    "%e": _without_zero(8, '{{ " " }}'),
    **{name: f'{{{{ template "{name}" (slice $today 5 7) }}}}' for name in _NAMES},
}
_PIECE = re.compile(r"%Y-%m-%d|%[-_0^#]?.|[^%]+|%", re.DOTALL)


def literal(text: str) -> str:
    """Return actions that write `text`, today's date included.

    Raises `DialectRefused` for a date that Ollama's templates cannot write, such as one with a weekday.
    """
    return "".join(
        "".join(map(_dated, _PIECE.findall(piece))) if is_date else "{{ " + quote(piece) + " }}"
        for piece, is_date in pieces(text)
    )


def _dated(piece: str) -> str:
    if piece == "%Y-%m-%d":
        return _DIRECTIVES["%F"]
    if not piece.startswith("%"):
        return "{{ " + quote(piece) + " }}"
    if piece not in _DIRECTIVES:
        raise DialectRefused(
            f"The template writes today's date with {piece}, and Ollama gives its templates year, month and "
            "day only."
        )
    return _DIRECTIVES[piece]


def date_definitions(body: str) -> list[str]:
    """Return the definitions that the template text `body` uses."""
    return [
        f'{{{{- define "{name}" }}}}' + _chosen(names) + "{{ end }}"
        for name, names in _NAMES.items()
        if f'{{{{ template "{name}" ' in body
    ]


def _chosen(names: tuple[str, ...]) -> str:
    arms = (f'if eq . "{number:02d}" }}}}{name}' for number, name in enumerate(names, start=1))
    return "{{ " + "{{ else ".join(arms) + "{{ end }}"
