"""What a proof says: by dialect, class and conversation, as plain data too.

Knows neither dialects nor how they are measured: `chat_templates.proof` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chat_templates.conversations import Case
from chat_templates.sources.source import TemplateSource
from chat_templates.stops import Stops
from chat_templates.token_ids import IdsResult

__all__ = ["ClassResult", "Comparison", "DialectProof", "Difference", "Proof", "difference_of"]

Status = Literal["exact", "refused", "absent"]


@dataclass(frozen=True)
class Difference:
    """The first case in which a dialect's prompt is not the training prompt."""

    case: str
    expected: str
    actual: str
    index: int
    """The first character that differs; the shorter text's length when it is a prefix of the other."""

    def as_json(self) -> dict[str, Any]:
        return {"case": self.case, "expected": self.expected, "actual": self.actual, "index": self.index}


@dataclass(frozen=True)
class Comparison:
    """One conversation in one dialect."""

    case: Case
    expected: str
    """The training prompt."""
    actual: str | None
    """The dialect's prompt; None where it has none."""
    error: str | None = None
    """Why it has none."""

    @property
    def same(self) -> bool:
        return self.actual == self.expected

    @property
    def difference(self) -> Difference | None:
        return None if self.actual is None else difference_of(self.case.name, self.expected, self.actual)


@dataclass(frozen=True)
class ClassResult:
    """How a dialect does on one class of conversations."""

    status: Status
    reason: str | None = None
    """Why it is refused or absent, in words."""
    cases: int = 0
    """Conversations compared (exact) or compared up to the first difference."""
    difference: Difference | None = None
    compared: tuple[Comparison, ...] = ()
    """The conversations themselves; not part of the JSON."""

    def as_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"status": self.status, "reason": self.reason, "cases": self.cases}
        if self.difference is not None:
            data["difference"] = self.difference.as_json()
        return data


@dataclass(frozen=True)
class DialectProof:
    """One dialect's text and what it is worth."""

    text: str | None
    refusal: str | None
    """Why the dialect cannot say the template at all."""
    classes: Mapping[str, ClassResult]
    ids: IdsResult | None = None
    """Whether the prompts that are equal as text are so as token ids; None without a tokenizer."""

    @property
    def ok(self) -> bool:
        """Whether the dialect is exact for plain chats: only then is it written without being asked twice."""
        return self.text is not None and self.classes["chat"].status == "exact"

    @property
    def exact(self) -> bool:
        """Whether nothing at all is refused."""
        return self.text is not None and all(r.status != "refused" for r in self.classes.values())


@dataclass(frozen=True)
class Proof:
    """What was measured for one template source."""

    source: TemplateSource
    stops: Stops | None
    dialects: Mapping[str, DialectProof]

    @property
    def ok(self) -> bool:
        """Whether every dialect is exact for plain chats."""
        return all(dialect.ok for dialect in self.dialects.values())

    def as_json(self, files: Mapping[str, Path] | None = None) -> dict[str, Any]:
        """Return plain data; `files` are the paths that the dialects were written to, by dialect."""
        written = files or {}
        return {
            "source": {
                "spec": self.source.spec,
                "description": self.source.description,
                "origin": self.source.origin,
                "form": self.source.form is not None,
                "form_refusal": self.source.form_refusal,
            },
            "dialects": {
                name: {
                    "ok": dialect.ok,
                    "refusal": dialect.refusal,
                    "classes": {c: result.as_json() for c, result in dialect.classes.items()},
                    "ids": None if dialect.ids is None else dialect.ids.as_json(),
                    "file": str(written[name]) if name in written else None,
                }
                for name, dialect in self.dialects.items()
            },
            "stops": None if self.stops is None else _stops_json(self.stops),
        }


def difference_of(case: str, expected: str, actual: str) -> Difference | None:
    """Return where two prompts of a case part; None where they are the same."""
    if actual == expected:
        return None
    length = min(len(expected), len(actual))
    index = next((i for i in range(length) if expected[i] != actual[i]), length)
    return Difference(case, expected, actual, index)


def _stops_json(stops: Stops) -> dict[str, Any]:
    return {
        "strings": list(stops.strings),
        "ids": list(stops.ids),
        "turn_end": stops.turn_end,
        "multi_token": list(stops.multi_token),
        "findings": [finding.as_json() for finding in stops.findings],
    }
