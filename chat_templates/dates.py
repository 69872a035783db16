"""Today's date inside a template's texts: a pair of marks around a strftime pattern.

Knows the marks, how to fill them with a day, and how to take a text apart at them. Does not know any
template language. The marks are two Unicode noncharacters, which no text that is exchanged may hold.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from typing import Any

__all__ = ["MARKS", "dated", "filled", "marked", "pieces"]

MARKS = ("\ufdd0", "\ufdd1")
"""What stands before and behind a pattern."""

_DATE = re.compile(f"{MARKS[0]}([^{MARKS[0]}{MARKS[1]}]*){MARKS[1]}")


def marked(pattern: str) -> str:
    """Return the text that stands for today's date in the strftime pattern `pattern`."""
    return f"{MARKS[0]}{pattern}{MARKS[1]}"


def dated(value: Any) -> bool:
    """Say whether today's date is in `value`: a text, a dataclass of texts, or a tuple of them."""
    if isinstance(value, str):
        return MARKS[0] in value
    return any(dated(part) for part in _parts(value).values())


def filled(value: Any, now: datetime.datetime) -> Any:
    """Return `value` with `now` in the place of every marked pattern."""
    if isinstance(value, str):
        return _DATE.sub(lambda found: now.strftime(found[1]), value) if MARKS[0] in value else value
    if isinstance(value, tuple):
        return tuple(filled(part, now) for part in value)
    parts = {name: filled(part, now) for name, part in _parts(value).items() if dated(part)}
    return dataclasses.replace(value, **parts) if parts else value


def pieces(text: str) -> list[tuple[str, bool]]:
    """Return the pieces of `text` in order: (piece, whether it is a strftime pattern)."""
    parts = _DATE.split(text)  # texts and patterns take turns
    return [(part, index % 2 == 1) for index, part in enumerate(parts) if part or index % 2]


def _parts(value: Any) -> dict[Any, Any]:
    if isinstance(value, tuple):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {}
