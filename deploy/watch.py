"""`Watch`: keep looking at a running server, cheaply, and tell when its state changes.

    up          it answers; tokens come
    busy        no token in time, or refused for load, but it is at work for others
    unclear     no token in time, and the server does not tell whether it is at work
    unhealthy   it answers, but not as it was trained to (rung stop or prompt)
    sleeping    its weights are not loaded (LMDeploy)
    down        everything else: nobody listens, it is unwell, or its engine gives no token

The first look, and every look after the server was away, climbs the whole ladder. The others ask for health
and models only; a token is asked for from time to time, and not while others get theirs. What does not move
for a long time is down, however busy it says it is: an engine can die with requests in its queue while its
API answers 200. Does not print (the listener is told) and does not know Prometheus (`metrics`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from deploy.client import Client, ServerKind
from deploy.ladder import Ladder, Target
from deploy.report import HealthReport, Rung
from deploy.traffic import UNTOLD, Traffic, read_traffic

__all__ = ["SERVING", "STATES", "Change", "Pace", "Watch"]

State = Literal["up", "busy", "unclear", "unhealthy", "sleeping", "down"]
STATES: tuple[State, ...] = ("up", "busy", "unclear", "unhealthy", "sleeping", "down")
SERVING: tuple[State, ...] = ("up", "busy", "unclear")
"""States in which nothing is known to be wrong."""
_CHEAP = ("port", "health", "models")


@dataclass(frozen=True)
class Pace:
    """How often, in seconds, and how long until a verdict."""

    interval: float = 10.0
    token_every: float = 60.0
    """Between two requests for a token, while nobody else gets any."""
    token_seconds: float = 60.0
    """That one token may take."""
    stalled_after: float = 300.0
    """Without any sign of work, after which a server that gives no token is down, busy or not."""


@dataclass(frozen=True)
class Change:
    """The state has become another one (`was` None: the first)."""

    at: datetime
    state: State
    was: State | None
    detail: str
    hint: str | None = None
    rungs: tuple[Rung, ...] = ()
    """What was climbed to find out."""

    def as_json(self) -> dict[str, Any]:
        return {
            "time": self.at.isoformat(timespec="seconds"),
            "state": self.state,
            "was": self.was,
            "detail": f"{self.detail} Try: {self.hint}" if self.hint else self.detail,
            "rungs": [rung.as_json() for rung in self.rungs],
        }


@dataclass(frozen=True)
class _Verdict:
    state: State
    detail: str
    hint: str | None = None


@dataclass
class Watch:
    """One server. `tell` gets every change of state, `climbed` every rung of whole ladders."""

    client: Client
    target: Target
    tell: Callable[[Change], None]
    climbed: Callable[[Rung], None] = lambda rung: None
    pace: Pace = field(default_factory=Pace)
    clock: Callable[[], float] = time.monotonic
    state: State | None = None
    model: str | None = None
    server: ServerKind = "unknown"
    rungs: dict[str, Rung] = field(default_factory=dict)
    """The latest of each."""
    traffic: Traffic = UNTOLD
    probes: dict[tuple[str, bool], int] = field(default_factory=dict)
    """(look, token or ladder; whether it found the server serving) -> how many."""
    last_success: float | None = None
    """When it last was up, in seconds since 1970."""
    _fault: tuple[str, _Verdict] | None = None
    """The rung that failed, and what that means, while it does not serve."""
    _token_at: float = float("-inf")
    _moved_at: float = float("-inf")
    _abandoned: int = 0
    """Requests of ours that were given up and may still be in the server's queue."""

    def run(self, fail_after: int | None = None) -> None:
        """Look until the client's guard raises, or `fail_after` looks in a row found it not serving."""
        failed = 0
        while True:
            self.look()
            failed = 0 if self.state in SERVING else failed + 1
            if fail_after is not None and failed >= fail_after:
                return
            self.client.pause(self.pace.interval)

    def look(self) -> None:
        """Look once, as thoroughly as is called for, and tell if the state is another one."""
        if self.state is None:
            self._moved_at = self.clock()
            self._note("ladder", *self._whole())
            return
        report = self._ladder().climb(self._cheap())
        failed = next((rung for rung in report.rungs if rung.ok is False), None)
        if failed is None:
            self._note(*self._closer(report))
        else:
            self._note("look", report, self._failure(failed, self.traffic))

    def _cheap(self) -> tuple[str, ...]:
        """llama-cpp-python lists its models only when the request under way has ended."""
        return _CHEAP[:2] if self.server == "llama-cpp-python" else _CHEAP

    def _closer(self, cheap: HealthReport) -> tuple[str, HealthReport, _Verdict]:
        """Health and models are well: climb it all after an absence, or ask for a token if it is time."""
        before, self.traffic = self.traffic, read_traffic(self.client, self.server)
        due = self.clock() - self._token_at >= self.pace.token_every
        was_away = self._fault is not None and self._fault[0] in _CHEAP
        if was_away or (self._fault is not None and due) or self.traffic.restarted_since(before):
            return "ladder", *self._whole()
        if self._fault is not None:
            return "look", cheap, self._fault[1]
        if self.traffic.moved_since(before):
            self._worked()
            return "look", cheap, _Verdict("up", f"others get answers ({self.traffic.source} tells)")
        if due:
            return "token", *self._token()
        return "look", cheap, _Verdict(self.state or "up", "")

    def _whole(self) -> tuple[HealthReport, _Verdict]:
        self._token_at = self.clock()
        report = self._ladder(on_rung=self.climbed).climb()
        if report["models"].ok:
            self.server, self.model = report.server, report.model
        before, self.traffic = self.traffic, read_traffic(self.client, self.server)
        failed = next((rung for rung in report.rungs if rung.ok is False), None)
        if failed is None:
            self._worked()
            return report, _Verdict("up", self._first_words(report))
        if failed.name in ("stop", "prompt"):
            self._worked()
            return report, _Verdict("unhealthy", _in_words(failed), failed.hint)
        return report, self._failure(failed, before)

    def _token(self) -> tuple[HealthReport, _Verdict]:
        self._token_at = self.clock()
        before = self.traffic
        report = self._ladder().climb(("generate",))
        rung = report["generate"]
        self.traffic = read_traffic(self.client, self.server)
        if rung.ok:
            self._worked()
            return report, _Verdict("up", rung.detail)
        return report, self._failure(rung, before)

    def _failure(self, rung: Rung, before: Traffic) -> _Verdict:
        """Judge a failed rung: only silence and refusals for load may come from being busy."""
        words = _in_words(rung)
        if rung.cause == "sleeping":
            return _Verdict("sleeping", words, rung.hint)
        if rung.name == "generate" and rung.cause == "busy":
            return _Verdict("busy", words)
        if rung.cause != "silent":
            return _Verdict("down", words, rung.hint)
        return self._silence(words, rung, before)

    def _silence(self, words: str, rung: Rung, before: Traffic) -> _Verdict:
        now, given_up = self.traffic, self._abandoned
        if rung.name == "generate":
            self._abandoned += 1
        if now.moved_since(before):
            self._worked()
            return _Verdict("busy", f"{words} It is at work for others: tokens come ({now.source}).")
        still = self.clock() - self._moved_at
        others: int | None = None
        if before.running is not None:  # before our request came on top
            others = max(0, before.running - given_up)
        elif now.running is not None:
            others = max(0, now.running - self._abandoned)
        if others == 0:
            return _Verdict("down", f"{words} Nobody else uses it ({now.source or before.source}).", _STUCK)
        asked = "it does not tell whether it is at work"
        if others is not None:
            asked = f"requests in progress: {others}"
        if still >= self.pace.stalled_after:
            return _Verdict("down", f"{words} No sign of work for {still:.0f} s; {asked}.", _STUCK)
        return _Verdict("unclear" if others is None else "busy", f"{words} Busy? {asked.capitalize()}.")

    def _worked(self) -> None:
        self._moved_at = self.clock()
        self._abandoned = 0

    def _ladder(self, on_rung: Callable[[Rung], None] | None = None) -> Ladder:
        ladder = Ladder(self.client, self.target, token_seconds=self.pace.token_seconds, on_rung=on_rung)
        ladder.model = self.target.model or self.model
        return ladder

    def _first_words(self, report: HealthReport) -> str:
        passed = sum(rung.ok is True for rung in report.rungs)
        source = self.traffic.source
        told = f"{source} tells its traffic" if source else "it does not tell whether others use it"
        return f"{passed}/{len(report.rungs)} rungs, {report['models'].detail}; {told}"

    def _note(self, kind: str, report: HealthReport, verdict: _Verdict) -> None:
        self.rungs |= {rung.name: rung for rung in report.rungs}
        serving = verdict.state in SERVING
        self.probes[kind, serving] = self.probes.get((kind, serving), 0) + 1
        if verdict.state == "up":
            self.last_success = time.time()
        failed = next((rung.name for rung in report.rungs if rung.ok is False), None)
        if serving:
            self._fault = None
        elif failed is not None:
            self._fault = failed, verdict
        was, self.state = self.state, verdict.state
        if was != verdict.state:
            now = datetime.now(UTC).astimezone()
            self.tell(Change(now, verdict.state, was, verdict.detail, verdict.hint, report.rungs))


_STUCK = "Its engine hangs or is dead while its API answers: start it again."


def _in_words(rung: Rung) -> str:
    return f"rung {rung.name}: {rung.detail.rstrip('.')}."
