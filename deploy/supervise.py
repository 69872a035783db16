"""`serve_in_foreground`: start an engine, climb the ladder, watch it, and leave nothing behind.

Prints nothing itself: the view is told. Does not know which engine it is, nor how the plan came about.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from deploy import ports
from deploy.client import Client
from deploy.engines.base import ServePlan
from deploy.ladder import Ladder, Target, engine_died
from deploy.process import EngineProcess
from deploy.report import HealthReport, Rung
from errors import Interrupted

__all__ = ["View", "guard_of", "serve_in_foreground"]


class View(Protocol):
    """Who is told what happens."""

    def starting(self) -> None: ...

    def waiting(self, seconds: float, last_line: str) -> None:
        """Called from time to time while the engine loads, with the last line of its log."""

    def rung(self, rung: Rung) -> None: ...

    def checked(self, report: HealthReport, pid: int) -> None:
        """The ladder of the engine (process `pid`) has been climbed, with whatever result."""

    def ready(self) -> None:
        """The engine serves; the report is good, or a bad one was allowed."""

    def stopping(self) -> None: ...


def serve_in_foreground(plan: ServePlan, view: View, *, grace: float = 10.0) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP; return 0 when it was stopped so after it was ready.

    A second signal kills what has not ended by itself. Raises `EngineFailed` when the engine cannot start,
    dies or does not come up, `CheckFailed` when a rung fails (unless the plan allows it) and `Interrupted`
    when it is stopped before it was ready. In every case the engine and all it started are gone.
    """
    ports.require_bindable(plan.host, plan.port)
    process = EngineProcess(plan.argv, log=plan.log, env=plan.env, cleared=plan.cleared, grace=grace)
    with _signals(process) as asked_to_stop:
        view.starting()
        try:
            process.start()
            report = _climb(plan, process, view, asked_to_stop)
            assert process.pid is not None
            view.checked(report, process.pid)
            if not plan.allow_unhealthy:
                report.raise_if_failed()
            view.ready()
            _watch(process, asked_to_stop)
            return 0
        finally:
            view.stopping()
            process.stop()


def guard_of(process: EngineProcess, asked_to_stop: threading.Event | None = None) -> Callable[[], None]:
    """Return the function that ends any waiting when the engine died or the user has had enough."""

    def guard() -> None:
        if asked_to_stop is not None and asked_to_stop.is_set():
            raise Interrupted
        if (status := process.poll()) is not None:
            raise engine_died(process, status, "it was being started and checked")

    return guard


def _climb(
    plan: ServePlan, process: EngineProcess, view: View, asked_to_stop: threading.Event
) -> HealthReport:
    guard = guard_of(process, asked_to_stop)
    target = Target(plan.name, plan.source, plan.checkpoint)
    with Client(plan.url, api_key=plan.api_key, guard=guard) as client:
        return Ladder(
            client,
            target,
            process=process,
            patience=plan.startup_seconds,
            on_rung=view.rung,
            on_wait=view.waiting,
        ).climb()


def _watch(process: EngineProcess, asked_to_stop: threading.Event) -> None:
    """Wait for the end of the engine, or for the word to end it."""
    while not asked_to_stop.is_set():
        if (status := process.wait(0.2)) is not None:
            raise engine_died(process, status, "it was serving")


@contextlib.contextmanager
def _signals(process: EngineProcess) -> Iterator[threading.Event]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into an event, and any further one into haste."""
    asked = threading.Event()

    def handle(number: int, frame: object) -> None:
        if asked.is_set():
            process.hurry()
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may handle signals
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # started with nohup: it outlives the terminal
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
