"""The leash and `EngineProcess`, with real processes that do not want to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.leash import descendants
from deploy.process import EngineProcess, ExitStatus, environment, last_lines
from errors import OutputError

FAKE = Path(__file__).with_name("fake_engine.py")
ROOT = FAKE.parent.parent.parent


def fake(tmp_path: Path, *flags: str, grace: float = 5.0) -> EngineProcess:
    return EngineProcess([sys.executable, str(FAKE), *flags], log=tmp_path / "engine.log", grace=grace)


def until(condition: object, seconds: float = 5.0) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def is_up(engine: EngineProcess) -> bool:
    return "fake engine is up" in engine.tail()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_polite_engine_ends_at_once_with_its_own_status(tmp_path: Path) -> None:
    with fake(tmp_path) as engine:
        assert until(lambda: is_up(engine))
        assert engine.poll() is None
        assert engine.pid is not None
        before = time.monotonic()
        assert engine.stop() == ExitStatus(code=0)
        assert time.monotonic() - before < 9, "it was given its whole grace"
        assert not alive(engine.pid)


def test_an_engine_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    with fake(tmp_path, "--ignore-sigterm", grace=30) as engine:
        assert until(lambda: is_up(engine))
        before = time.monotonic()
        assert engine.stop(grace=0.5) == ExitStatus(signal=signal.SIGKILL)
        assert 0.4 < time.monotonic() - before < 25


def test_grandchildren_with_their_own_sessions_end_too(tmp_path: Path) -> None:
    others = descendants(os.getpid())  # of other tests, such as the Jinja worker
    with fake(tmp_path, "--ignore-sigterm", "--grandchildren", "3") as engine:
        assert until(lambda: is_up(engine))
        below = descendants(os.getpid()) - others
        assert len(below) == 5  # leash, engine, three orphans that the leash adopted
        engine.stop(grace=0.3)
        assert not [pid for pid in below if alive(pid)]


def test_grandchildren_end_when_the_engine_dies_by_itself(tmp_path: Path) -> None:
    others = descendants(os.getpid())
    with fake(tmp_path, "--grandchildren", "2", "--die-after", "0.3", "--exit-code", "3") as engine:
        before = time.monotonic()
        assert engine.wait(5) == ExitStatus(code=3)
        assert time.monotonic() - before < 9, "death is told before what is left was cleared"
        assert until(lambda: descendants(os.getpid()) <= others)


def test_the_signal_of_a_death_is_told(tmp_path: Path) -> None:
    with fake(tmp_path) as engine:
        assert until(lambda: is_up(engine))
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSEGV)
        assert engine.wait(2) == ExitStatus(signal=signal.SIGSEGV)
        assert str(engine.poll()) == "signal 11 (SIGSEGV)"


def test_a_killed_leash_takes_the_engine_with_it(tmp_path: Path) -> None:
    with fake(tmp_path, "--ignore-sigterm") as engine:
        assert until(lambda: is_up(engine))
        assert engine.pid is not None
        leash_pid = int(Path(f"/proc/{engine.pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(leash_pid, signal.SIGKILL)
        assert engine.wait(2) == ExitStatus(signal=signal.SIGKILL)
        assert until(lambda: not alive(engine.pid or 0))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path: Path, end: signal.Signals) -> None:
    script = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from deploy.process import EngineProcess
flags = ["--ignore-sigterm", "--grandchildren", "2"]
engine = EngineProcess([sys.executable, {str(FAKE)!r}, *flags], log=Path({str(tmp_path)!r}, "log"), grace=1)
engine.start()
time.sleep(60)
"""
    supervisor = subprocess.Popen([sys.executable, "-c", script])
    try:
        assert until(lambda: "fake engine is up" in last_lines(tmp_path / "log", 9))
        below = descendants(supervisor.pid)
        assert len(below) == 4
    finally:
        supervisor.send_signal(end)
        supervisor.wait()
    assert until(lambda: not [pid for pid in below if alive(pid)], seconds=5)


def test_a_thread_that_started_the_engine_may_end(tmp_path: Path) -> None:
    """The kernel ties a parent-death signal to the *thread* that forked."""
    import threading

    engine = fake(tmp_path)
    starter = threading.Thread(target=engine.start)
    starter.start()
    starter.join()
    try:
        assert until(lambda: is_up(engine))
        assert engine.wait(0.5) is None
    finally:
        engine.stop()


def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    engine = EngineProcess(["/no/such/engine"], log=tmp_path / "log")
    with engine:
        assert engine.wait(5) == ExitStatus(code=127)
        assert engine.tail() == ["portside: cannot run /no/such/engine: No such file or directory"]


def test_stop_without_start_and_twice(tmp_path: Path) -> None:
    engine = fake(tmp_path)
    assert engine.stop() is None
    engine.start()
    assert until(lambda: is_up(engine))
    assert engine.stop() == engine.stop() == ExitStatus(code=0)


def test_the_environment_loses_what_would_redirect_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PORT", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("VLLM_PORT_8000_TCP", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("VLLM_OTHER", "kept")
    found = environment({"ADDED": "1"}, ["VLLM_PORT", "VLLM_PORT_*"])
    assert found["VLLM_OTHER"] == "kept"
    assert found["ADDED"] == "1"
    assert "VLLM_PORT" not in found
    assert "VLLM_PORT_8000_TCP" not in found


def test_the_previous_log_is_kept(tmp_path: Path) -> None:
    for words in ("first", "second"):
        with fake(tmp_path, "--print", words) as engine:
            assert until(lambda engine=engine: is_up(engine))
    assert last_lines(tmp_path / "engine.log", 2)[0] == "second"
    assert last_lines(tmp_path / "engine.log.1", 2)[0] == "first"
    assert (tmp_path / "engine.log").stat().st_mode & 0o077 == 0


def test_the_log_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write the log"):
        EngineProcess(["true"], log=tmp_path / "file" / "log").start()


def test_a_tail_is_plain_text(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\x1b[31mred\x1b[0m\n 10%\r 50%\r100%\r\n\n\xff\nlast")
    assert last_lines(log, 9) == ["red", "100%", "�", "last"]
    assert last_lines(log, 1) == ["last"]
    assert last_lines(tmp_path / "none", 3) == []
