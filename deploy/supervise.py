"""`serve_in_foreground`: start an engine, climb the ladder, watch it, and leave nothing behind.

Prints nothing itself: the view is told. Does not know which engine it is, nor how the plan came about.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from deploy import ports
from deploy.client import Client
from deploy.engines.base import ServePlan
from deploy.ladder import Ladder, Target, engine_died
from deploy.notify import notify
from deploy.process import EngineProcess
from deploy.report import HealthReport, Rung
from deploy.restarts import Restarts
from deploy.signals import end_signals
from errors import EngineFailed, Interrupted

__all__ = ["Serving", "View", "guard_of", "serve_in_foreground"]


class View(Protocol):
    """Who is told what happens."""

    def starting(self) -> None: ...

    def waiting(self, seconds: float, last_line: str) -> None:
        """Called from time to time while the engine loads, with the last line of its log."""

    def rung(self, rung: Rung) -> None: ...

    def checked(self, report: HealthReport, pid: int | None) -> None:
        """The ladder of the engine (process `pid`, None: not ours) has been climbed, with whatever result."""

    def ready(self) -> None:
        """The engine serves; the report is good, or a bad one was allowed."""

    def restarting(self, seconds: float, error: EngineFailed) -> None:
        """The engine died of `error` while it was serving, and is started again in `seconds`."""

    def stopping(self) -> None: ...


def serve_in_foreground(
    plan: ServePlan, view: View, *, grace: float = 10.0, restarts: Restarts | None = None
) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP; return 0 when it was stopped so after it was ready.

    A second signal kills what has not ended by itself. Raises `EngineFailed` when the engine cannot start,
    dies or does not come up, `CheckFailed` when a rung fails (unless the plan allows it) and `Interrupted`
    when it is stopped before it was ready. With `restarts` an engine that has served once is started again
    when it dies, until they give it up. In every case the engine and all it started are gone.
    """
    serving = Serving(plan, view, grace=grace, restarts=restarts)
    with end_signals(serving.hurry) as asked_to_stop:
        return serving.run(asked_to_stop)


class Serving:
    """The runs of one engine, one after the other; like `serve_in_foreground`, but told by an event to end.

    `served`: seconds that the latest run was ready.
    """

    def __init__(
        self, plan: ServePlan, view: View, *, grace: float = 10.0, restarts: Restarts | None = None
    ) -> None:
        self.plan = plan
        self.view = view
        self.grace = grace
        self.restarts = restarts
        self.process: EngineProcess | None = None
        self.was_ready = False
        self.served = 0.0

    def run(self, asked_to_stop: threading.Event) -> int:
        """Serve until the event is set; see `serve_in_foreground` for results and errors."""
        if self.plan.attached:
            return _serve_attached(self.plan, self.view, asked_to_stop)
        ports.require_bindable(self.plan.host, self.plan.port)
        while True:
            try:
                self._once(asked_to_stop)
                return 0
            except EngineFailed as error:
                if self.restarts is None or not self.was_ready:
                    raise
                delay = self.restarts.delay(error, self.served)
                self.view.restarting(delay, error)
            except Interrupted:
                if not self.was_ready:
                    raise
                return 0
            _pause(delay, asked_to_stop)

    def _once(self, asked_to_stop: threading.Event) -> None:
        plan, view, ready = self.plan, self.view, None
        if asked_to_stop.is_set():
            raise Interrupted
        process = self.process = EngineProcess(
            plan.argv, log=plan.log, env=plan.env, cleared=plan.cleared, grace=self.grace
        )
        view.starting()
        try:
            process.start()
            report = _climb(plan, process, view, asked_to_stop)
            assert process.pid is not None
            view.checked(report, process.pid)
            if not plan.allow_unhealthy:
                report.raise_if_failed()
            ready, self.was_ready = time.monotonic(), True
            view.ready()
            notify("READY=1", f"STATUS=Serving {plan.name} at {plan.url}")
            _watch(process, asked_to_stop)
        finally:
            notify("STOPPING=1")
            self.served = 0.0 if ready is None else time.monotonic() - ready
            view.stopping()
            process.stop()

    def hurry(self) -> None:
        """Kill what has not ended by itself."""
        if self.process is not None:
            self.process.hurry()


def _pause(seconds: float, asked_to_stop: threading.Event) -> None:
    """Wait before a restart, or until the word to end."""
    end = time.monotonic() + seconds
    while not asked_to_stop.is_set() and (left := end - time.monotonic()) > 0:
        time.sleep(min(0.1, left))


def _serve_attached(plan: ServePlan, view: View, asked_to_stop: threading.Event) -> int:
    """Serve through a server that runs already; it goes on afterwards, as it was before."""
    view.starting()
    try:
        report = _climb(plan, None, view, asked_to_stop)
        view.checked(report, None)
        if not plan.allow_unhealthy:
            report.raise_if_failed()
        view.ready()
        while not asked_to_stop.is_set():
            _pause(1.0, asked_to_stop)
            if not ports.is_open(plan.host, plan.port):
                raise EngineFailed(f"The server at {plan.url}, which was not started here, is gone.")
        return 0
    finally:
        view.stopping()
        with Client(plan.url, api_key=plan.api_key) as client:
            for step in plan.steps:
                step.undo(client)


def guard_of(
    process: EngineProcess | None, asked_to_stop: threading.Event | None = None
) -> Callable[[], None]:
    """Return the function that ends any waiting when the engine died or the user has had enough."""

    def guard() -> None:
        if asked_to_stop is not None and asked_to_stop.is_set():
            raise Interrupted
        if process is not None and (status := process.poll()) is not None:
            raise engine_died(process, status, "it was being started and checked")

    return guard


def _climb(
    plan: ServePlan, process: EngineProcess | None, view: View, asked_to_stop: threading.Event
) -> HealthReport:
    guard = guard_of(process, asked_to_stop)
    target = Target(plan.name, plan.source, plan.checkpoint)
    with Client(plan.url, api_key=plan.api_key, guard=guard) as client:
        return Ladder(
            client,
            target,
            process=process,
            steps=plan.steps,
            patience=0.0 if process is None else plan.startup_seconds,
            on_rung=view.rung,
            on_wait=view.waiting,
        ).climb()


def _watch(process: EngineProcess, asked_to_stop: threading.Event) -> None:
    """Wait for the end of the engine, or for the word to end it."""
    while not asked_to_stop.is_set():
        if (status := process.wait(0.2)) is not None:
            raise engine_died(process, status, "it was serving")
