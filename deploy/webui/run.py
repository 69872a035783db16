"""`run_webui`: start Open WebUI, wait until it answers, watch it, and leave nothing behind.

Prints nothing itself: the view is told.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from deploy import ports
from deploy.client import Client
from deploy.process import EngineProcess, ExitStatus
from deploy.signals import end_signals
from deploy.webui.plan import WebuiPlan, secret_key
from errors import EngineFailed, Interrupted

__all__ = ["WebuiView", "run_webui"]

_HEARTBEAT = 5.0
"""Seconds between two signs of life while it starts."""
_GRACE = 10.0
_TAIL = 12


class WebuiView(Protocol):
    """Who is told what happens."""

    def starting(self) -> None: ...

    def waiting(self, seconds: float, last_line: str) -> None: ...

    def ready(self, seconds: float, pid: int) -> None: ...

    def stopping(self) -> None: ...


def run_webui(plan: WebuiPlan, view: WebuiView) -> int:
    """Run it until SIGINT, SIGTERM or SIGHUP; return 0 when it was stopped so after it was ready.

    Raises `EngineFailed` when it cannot start, dies or does not come up, `Interrupted` when it is stopped
    before it was ready. In every case it and all it started are gone.
    """
    ports.require_bindable(plan.host, plan.port)
    env = {**plan.env, "WEBUI_SECRET_KEY": secret_key(plan.data)}
    # Its database migrations put the working directory on sys.path: whatever lies there could be imported.
    process = EngineProcess(
        plan.argv, log=plan.log, env=env, cleared=plan.cleared, grace=_GRACE, directory=plan.data
    )
    with end_signals(process.hurry) as asked_to_stop:
        view.starting()
        began = time.monotonic()
        try:
            process.start()
            _await_page(plan, process, view, asked_to_stop)
            assert process.pid is not None
            view.ready(time.monotonic() - began, process.pid)
            while not asked_to_stop.is_set():
                if (status := process.wait(0.2)) is not None:
                    raise _ended(process, status, "it was serving")
            return 0
        finally:
            view.stopping()
            process.stop()


def _await_page(
    plan: WebuiPlan, process: EngineProcess, view: WebuiView, asked_to_stop: threading.Event
) -> None:
    """Wait until /health answers. Raises what `run_webui` does."""

    def guard() -> None:
        if asked_to_stop.is_set():
            raise Interrupted
        if (status := process.poll()) is not None:
            raise _ended(process, status, "it was starting")

    began = told = time.monotonic()
    with Client(plan.url, guard=guard) as client:
        while not client.get("/health", timeout=5.0).ok:
            client.pause(0.25)
            now = time.monotonic()
            if now - began > plan.startup_seconds:
                raise EngineFailed(
                    f"Open WebUI does not answer at {plan.url} after {plan.startup_seconds:.0f} s.",
                    hint=f"Its log is {plan.log}.",
                )
            if now - told >= _HEARTBEAT:
                told = now
                view.waiting(now - began, (process.tail(1) or [""])[-1])


def _ended(process: EngineProcess, status: ExitStatus, while_doing: str) -> EngineFailed:
    last = "".join(f"\n    {line[:300]}" for line in process.tail(_TAIL))
    return EngineFailed(
        f"Open WebUI ended while {while_doing} ({status}). The end of its log ({process.log}):{last}",
        hint="If its database is of another version, give it a new place with --data.",
    )
