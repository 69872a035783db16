"""Trimming in a Go template: named templates that write a text without the white space at its ends.

Go's templates have no functions that search or trim. A loop that takes one piece off at a time does: for a
text t of n bytes, n - k is `len (slice t k)`. Ranges over a number need Go 1.24, so Ollama 0.5.13.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chat_templates.dialects.gotemplate_values import quote
from chat_templates.thinking import Strip

__all__ = ["definition", "invoked", "strip_loop"]

_TAKEN: Mapping[Strip, Mapping[int, str]] = {
    "nothing": {},
    "line_feeds": {1: "\n"},
    "white_space": {
        1: "\t\n\v\f\r\x1c\x1d\x1e\x1f ",
        2: "\x85\xa0",
        3: "\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
        "\u2028\u2029\u202f\u205f\u3000",
    },
}
"""What Python's str.strip takes off, by the number of bytes in UTF-8."""

_NAMES: Mapping[tuple[Strip, bool], str] = {
    ("white_space", True): "trimmed",
    ("white_space", False): "begun without white space",
    ("line_feeds", True): "without line feeds",
    ("line_feeds", False): "begun without line feeds",
}
"""By what is taken, and whether at both ends."""


def invoked(value: str, what: Strip, *, both_ends: bool) -> str:
    """Return the action that writes `value` without `what`."""
    if what == "nothing":
        return f"{{{{ {value} }}}}"
    return f'{{{{ template "{_NAMES[what, both_ends]}" {value} }}}}'


def definition(body: Iterable[str]) -> list[str]:
    """Return the named templates that the lines of `body` invoke."""
    text = "\n".join(body)
    found: list[str] = []
    for (what, both_ends), name in _NAMES.items():
        if f'template "{name}"' in text:
            found.append(f'{{{{- define "{name}" }}}}{{{{ $text := . }}}}{strip_loop(what, at_end=False)}')
            found += [strip_loop(what, at_end=True)] if both_ends else []
            found.append("{{- $text }}{{ end }}")
    return found


def strip_loop(what: Strip, *, at_end: bool) -> str:
    """Return a loop that takes `what` off one end of $text."""
    arms = []
    for size, spaces in _TAKEN[what].items():
        rest = f"(len (slice $text {size}))"
        piece = f"(slice $text {rest})" if at_end else f"(slice $text 0 {size})"
        kept = f"slice $text 0 {rest}" if at_end else f"slice $text {size}"
        named = " ".join(map(quote, spaces))
        arms.append(f"if and (ge (len $text) {size}) (eq {piece} {named}) }}}}{{{{ $text = {kept} }}}}")
    if not arms:
        return ""
    return (
        "{{- range len $text }}{{ " + "\n{{- else ".join(arms) + "\n{{- else }}{{ break }}{{ end }}{{ end }}"
    )
