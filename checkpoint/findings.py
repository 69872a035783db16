"""`Finding`: one thing a reader of a checkpoint should know, with a stable code and what to do about it.

Also `CheckpointFlaw`, the error this room raises, which carries the same kind of code so that a survey can
list it beside the findings. Knows no particular finding.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from errors import CheckpointError

__all__ = ["CheckpointFlaw", "Finding", "Severity"]

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One observation: `code` is kebab-case and stable, `fix` says what to do (may be empty for `info`)."""

    code: str
    severity: Severity
    message: str
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


class CheckpointFlaw(CheckpointError):
    """A `CheckpointError` with the code that its finding has in a survey."""

    def __init__(self, code: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code

    def as_finding(self) -> Finding:
        return Finding(self.code, "error", self.message, self.hint or "")
