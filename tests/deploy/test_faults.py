"""Fault runs: supervisors killed at random moments, and many starts and stops in one process.

A few of each in every test run, all of them with the marker `engines`, because they take minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy import serve_in_foreground
from deploy.ports import free_port, require_bindable
from tests.deploy.serving import Recorder
from tests.deploy.supervised import ROOT, fake_plan

SERVING_SECONDS, START_SECONDS = 0.3, 1.5
"""About what the fake engine's start and its ladder take: the moments of a start lie within."""


def marked(cache: Path) -> dict[int, str]:
    """Return the living processes, by id with their command lines, that belong to the run with this cache.

    They are told by their environment, which every descendant inherits, whatever session it has.
    """
    mark = f"PORTSIDE_CACHE={cache}".encode()
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            if state not in "ZX" and mark in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return found


def kill(cache: Path, role: str) -> int:
    """Kill the processes of this run that play `role`, start or serve; return how many there were."""
    pids = [pid for pid, words in marked(cache).items() if f"tests.deploy.supervised {role} " in words]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return len(pids)


def one_fault(cache: Path, moment: float, *, serving: bool, starter_too: bool) -> int:
    """Start a server, kill its supervisor `moment` seconds later, and require that nothing is left.

    Returns how many supervisors there were to kill: none where the moment was before the first.
    """
    cache.mkdir()
    port = free_port()
    env = {**os.environ, "PORTSIDE_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.deploy.supervised", "start", str(cache), str(port)],
        cwd=ROOT,
        env=env,
        stderr=subprocess.DEVNULL,
    ) as starter:
        if serving:
            assert starter.wait(60) == 0, "it did not come up"
        time.sleep(moment)
        if starter_too:
            starter.kill()
        killed = kill(cache, "serve")
        if not killed and not starter_too:
            starter.kill()  # it would start one now
            time.sleep(0.1)
            kill(cache, "serve")
    deadline = time.monotonic() + 20
    while (left := marked(cache)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, f"orphans: {left}"
    require_bindable("127.0.0.1", port)
    listed = subprocess.run(
        [sys.executable, "-m", "cli", "ps", "--json"], cwd=ROOT, env=env, capture_output=True, check=True
    )
    assert json.loads(listed.stdout) == {"servers": []}
    assert [entry.name for entry in (cache / "servers").iterdir()] == ["lock"], "stale state"
    return killed


@pytest.mark.parametrize("runs", [2, pytest.param(50, marks=pytest.mark.engines)])
def test_a_killed_supervisor_leaves_nothing(runs: int, tmp_path: Path) -> None:
    """Two at a time: the runs are told apart by their caches."""
    dice = random.Random()
    with ThreadPoolExecutor(2) as pool:
        faults = [
            pool.submit(
                one_fault,
                tmp_path / str(run),
                dice.uniform(0, SERVING_SECONDS if run % 2 == 0 else START_SECONDS),
                serving=run % 2 == 0,
                starter_too=run % 4 == 1,
            )
            for run in range(runs)
        ]
        killed = sum(fault.result() for fault in faults)
    assert killed >= runs / 2, "the faults came too early to be any"


@pytest.mark.parametrize("cycles", [3, pytest.param(200, marks=pytest.mark.engines)])
def test_starts_and_stops_leak_nothing(cycles: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary, logs = tmp_path / "tmp", tmp_path / "logs"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)

    def cycle() -> tuple[set[str], set[threading.Thread]]:
        assert serve_in_foreground(fake_plan(logs, free_port()), Recorder()) == 0
        return _descriptors(), set(threading.enumerate())

    before = cycle()  # the first one imports modules, which may keep files open
    for _ in range(cycles):
        after = cycle()
    assert after == before
    assert list(temporary.iterdir()) == []
    assert sorted(entry.name for entry in logs.iterdir()) == ["engine.log", "engine.log.1"]


def _descriptors() -> set[str]:
    """Return the open file descriptors with what they are, without the one that reads the list."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = entry.readlink()
            if target != Path(f"/proc/{os.getpid()}/fd"):
                found.add(f"{entry.name}: {target}")
    return found
