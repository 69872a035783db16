"""Serving in the foreground: signals, deaths and verdicts, with the fake engine."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from deploy import Restarts, ServePlan, serve_in_foreground
from deploy.ports import free_port, is_open
from errors import CheckFailed, EngineFailed, Interrupted
from tests.deploy.serving import Recorder

FAKE = Path(__file__).with_name("fake_engine.py")


def plan(tmp_path: Path, *flags: str, allow_unhealthy: bool = False) -> ServePlan:
    port = free_port()
    return ServePlan(
        engine="fake",
        runtime="fake",
        name="fake",
        host="127.0.0.1",
        port=port,
        argv=(sys.executable, str(FAKE), "--port", str(port), *flags),
        env={"FAKE_API_KEY": "k"},
        cleared=(),
        served=tmp_path,
        log=tmp_path / "engine.log",
        startup_seconds=10,
        api_key="k",
        allow_unhealthy=allow_unhealthy,
    )


def soon(seconds: float, number: signal.Signals) -> None:
    """Send a signal to this process in a while."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_ready_server_in_order(tmp_path: Path, number: signal.Signals) -> None:
    class View(Recorder):
        def ready(self) -> None:
            self.told.append("ready")
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    view, served = View(), plan(tmp_path)
    assert serve_in_foreground(served, view) == 0
    assert view.told == ["starting", "ready", "stopping"]
    assert not is_open(served.host, served.port)
    assert signal.getsignal(number) == before


def test_a_signal_while_it_loads(tmp_path: Path) -> None:
    view, served = Recorder(), plan(tmp_path, "--loading", "60")
    soon(1.0, signal.SIGINT)
    began = time.monotonic()
    with pytest.raises(Interrupted):
        serve_in_foreground(served, view)
    assert time.monotonic() - began < 30
    assert not is_open(served.host, served.port)


def test_a_second_signal_makes_haste(tmp_path: Path) -> None:
    view, served = Recorder(), plan(tmp_path, "--ignore-sigterm", "--grandchildren", "1")
    soon(3.0, signal.SIGINT)  # the first one comes from the view
    began = time.monotonic()
    assert serve_in_foreground(served, view, grace=60) == 0
    assert time.monotonic() - began < 40
    assert not is_open(served.host, served.port)


def test_a_death_while_serving(tmp_path: Path) -> None:
    class View(Recorder):
        def ready(self) -> None:
            os.kill(self.pid, signal.SIGSEGV)

    with pytest.raises(EngineFailed, match=r"while it was serving \(signal 11 \(SIGSEGV\)\). It crashed"):
        serve_in_foreground(plan(tmp_path), View())


def test_a_bad_server_is_stopped_unless_it_is_allowed(tmp_path: Path) -> None:
    view, served = Recorder(), plan(tmp_path, "--never-stops")
    with pytest.raises(CheckFailed, match="rung stop: never stops"):
        serve_in_foreground(served, view)
    assert view.report is not None
    assert "ready" not in view.told
    assert not is_open(served.host, served.port)
    view = Recorder()
    assert serve_in_foreground(plan(tmp_path, "--never-stops", allow_unhealthy=True), view) == 0
    assert "ready" in view.told


def test_it_can_be_run_from_another_thread(tmp_path: Path) -> None:
    """Only the main thread may handle signals; the rest works."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            serve_in_foreground(plan(tmp_path, "--never-stops"), Recorder())
        except CheckFailed as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert len(errors) == 1


def test_nohup_is_respected(tmp_path: Path) -> None:
    class View(Recorder):
        def ready(self) -> None:
            os.kill(os.getpid(), signal.SIGHUP)
            self.told.append("still here")
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        view = View()
        assert serve_in_foreground(plan(tmp_path), view) == 0
        assert "still here" in view.told
    finally:
        signal.signal(signal.SIGHUP, before)


class Killer(Recorder):
    """Kills the engine as soon as it is ready, `times` times, and then presses Ctrl-C."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.pids: list[int] = []

    def ready(self) -> None:
        self.pids.append(self.pid)
        if len(self.pids) > self.times:
            super().ready()
        else:
            os.kill(self.pid, signal.SIGKILL)


def test_an_engine_that_died_is_started_again(tmp_path: Path) -> None:
    view, served = Killer(2), plan(tmp_path, "--grandchildren", "1")
    assert serve_in_foreground(served, view, restarts=Restarts(step=0.2)) == 0
    assert [word for word in view.told if word.startswith("restarting")] == [
        "restarting in 0",
        "restarting in 0.2",
    ]
    assert len(set(view.pids)) == 3
    assert view.told[-2:] == ["ready", "stopping"]
    assert not is_open(served.host, served.port)


def test_a_crash_loop_is_given_up(tmp_path: Path) -> None:
    view, served = Killer(99), plan(tmp_path)
    with pytest.raises(EngineFailed, match=r"given up after 2 restarts: no run served for 60 s\. The"):
        serve_in_foreground(served, view, restarts=Restarts(step=0, attempts=2))
    assert len(view.pids) == 3
    assert not is_open(served.host, served.port)


def test_an_engine_that_never_served_is_not_started_again(tmp_path: Path) -> None:
    view = Recorder()
    with pytest.raises(EngineFailed, match="while it was being started"):
        serve_in_foreground(plan(tmp_path, "--no-listen", "--die-after", "0.1"), view, restarts=Restarts())
    assert view.told == ["starting", "stopping"]


def test_ctrl_c_ends_the_wait_for_a_restart(tmp_path: Path) -> None:
    class View(Killer):
        def restarting(self, seconds: float, error: EngineFailed) -> None:
            super().restarting(seconds, error)
            if seconds:
                soon(0.3, signal.SIGINT)

    view, began = View(2), time.monotonic()
    assert serve_in_foreground(plan(tmp_path), view, restarts=Restarts(step=120)) == 0
    assert time.monotonic() - began < 60
    assert len(view.pids) == 2


def test_restarts_grow_and_forget_after_a_long_run() -> None:
    restarts, error = Restarts(longest=15, attempts=3), EngineFailed("It died.")
    assert [restarts.delay(error, served=1) for _ in range(3)] == [0, 10, 15]
    assert [restarts.delay(error, served=served) for served in (60, 1, 1)] == [0, 10, 15]
    with pytest.raises(EngineFailed, match="It died"):
        restarts.delay(error, served=59)
