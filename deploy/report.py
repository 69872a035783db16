"""What the health ladder found: seven rungs, in order, and the verdict.

Does not know how a rung is tried (`ladder`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from deploy.client import ServerKind
from errors import CheckFailed

__all__ = ["RUNGS", "Cause", "HealthReport", "Rung"]

Cause = Literal["silent", "busy", "sleeping"]
"""Reasons that are no failure for sure: no answer in time, refused for load, put to sleep."""

RUNGS = ("process", "port", "health", "models", "generate", "stop", "prompt")


@dataclass(frozen=True)
class Rung:
    """One result. `detail` says what was seen and, when `ok` is False, what was expected and what to try."""

    name: str
    ok: bool | None
    seconds: float
    detail: str
    hint: str | None = None
    cause: Cause | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "detail": f"{self.detail} Try: {self.hint}" if self.hint else self.detail,
        }


@dataclass(frozen=True)
class HealthReport:
    """The rungs that were climbed, in order; all seven unless fewer were asked for."""

    url: str
    rungs: tuple[Rung, ...]
    server: ServerKind = "unknown"
    model: str | None = None

    @property
    def ok(self) -> bool:
        """No rung failed, and the model really answered."""
        failed = any(rung.ok is False for rung in self.rungs)
        return not failed and self["generate"].ok is True

    def __getitem__(self, name: str) -> Rung:
        return next(rung for rung in self.rungs if rung.name == name)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "url": self.url,
            "server": self.server,
            "model": self.model,
            "rungs": [rung.as_json() for rung in self.rungs],
        }

    def raise_if_failed(self) -> None:
        """Raise `CheckFailed` with the first failed rung and what to try."""
        failed = next((rung for rung in self.rungs if rung.ok is False), None)
        if failed is not None:
            raise CheckFailed(
                f"{self.url} is not healthy, rung {failed.name}: {failed.detail}", hint=failed.hint
            )
