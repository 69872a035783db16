"""Serving in a test: a view that writes down what it is told and stops the server once it is ready."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from deploy import HealthReport, Rung, ServeRequest, plan_serving, serve_in_foreground
from deploy.ports import is_open
from errors import EngineFailed

__all__ = ["Recorder", "port_of", "serve"]


class Recorder:
    """A view that writes down what it is told, and presses Ctrl-C once the server is ready."""

    def __init__(self, when_ready: Callable[[int], None] | None = None) -> None:
        self.rungs: dict[str, Rung] = {}
        self.report: HealthReport | None = None
        self.told: list[str] = []
        self.when_ready = when_ready

    def starting(self) -> None:
        self.told.append("starting")

    def waiting(self, seconds: float, last_line: str) -> None:
        pass

    def rung(self, rung: Rung) -> None:
        self.rungs[rung.name] = rung

    def checked(self, report: HealthReport, pid: int | None) -> None:
        self.report = report
        self.pid = pid or os.getpid()

    def ready(self) -> None:
        self.told.append("ready")
        try:
            if self.when_ready:
                self.when_ready(self.pid)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def restarting(self, seconds: float, error: EngineFailed) -> None:
        self.told.append(f"restarting in {seconds:g}")

    def stopping(self) -> None:
        self.told.append("stopping")


def serve(
    engine: str,
    model: Path,
    view: Recorder,
    *,
    source: str = "checkpoint",
    as_is: bool = False,
    allow: bool = False,
) -> str:
    request = ServeRequest(
        engine,
        model,
        source=source,
        port=0,
        as_is=as_is,
        runtime="embedded" if engine == "llamacpp" else None,
        allow_unhealthy=allow,
        api_key="secret",
    )
    plan = plan_serving(request, execute=True)
    assert "secret" not in " ".join(plan.argv)
    assert "secret" not in json.dumps(plan.as_json())
    try:
        assert serve_in_foreground(plan, view) == 0
    finally:
        assert not is_open(plan.host, plan.port)
        assert view.told[0] == "starting"
        assert view.told[-1] == "stopping"
    return plan.url


def port_of(pid: int) -> int:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return int(words[words.index("--port") + 1])
