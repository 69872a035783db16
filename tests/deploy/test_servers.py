"""Servers in the background: started, listed, told apart from what a crash left behind, stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from commands.servers import logs, ps
from deploy.servers import Server, find_server, list_servers, start_server, stop_server
from errors import BadInput, UsageError

READY = "import sys, time; print('{\"ok\": true}', flush=True); print('up', file=sys.stderr); time.sleep(60)"
BAD = "import sys; print('{\"ok\": false}', flush=True); print('no', file=sys.stderr); sys.exit(1)"
SLOW = "import time; time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + READY


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path))
    yield tmp_path
    for server in list_servers():
        stop_server(server, seconds=0.1)


def start(code: str, name: str = "model", shown: list[str] | None = None) -> tuple[Server, int | None]:
    return start_server(
        [sys.executable, "-c", code],
        name=name,
        engine="fake",
        model="dir",
        url="http://127.0.0.1:1",
        engine_log=Path("log"),
        env={"PORTSIDE_API_KEY": "secret"},
        show=(shown if shown is not None else []).append,
    )


def test_a_server_is_listed_until_it_is_stopped() -> None:
    shown: list[str] = []
    server, code = start(READY, "org/model", shown)
    assert code is None
    assert [found.name for found in list_servers()] == ["org/model"]
    assert find_server("org/model").as_json()["state"] == "ready"
    assert "secret" not in json.dumps(server.as_json())
    assert os.getsid(server.pid) != os.getsid(0), "a closed terminal would reach it"
    stop_server(server)
    assert list_servers() == ()
    assert not server.directory.exists()


def test_a_server_that_gives_up_is_shown_and_forgotten() -> None:
    shown: list[str] = []
    server, code = start(BAD, shown=shown)
    assert code == 1
    assert "".join(shown) == "no\n"
    assert not server.directory.exists()


def test_an_error_that_is_told_before_the_end_is_awaited() -> None:
    code = "import sys, time; print('{\"error\": {}}', flush=True); time.sleep(0.3); sys.exit(4)"
    server, exit_code = start(code)
    assert exit_code == 4
    assert not server.directory.exists()


def test_a_restart_is_told_until_it_serves_again() -> None:
    server, _ = start(READY)
    with (server.directory / "report").open("a") as report:
        report.write('{"ok": false, "restarting_in": 10}\n')
        report.flush()
        assert server.state == "restarting"
        report.write('{"ok": true')
        report.flush()
        assert server.state == "restarting", "half a line is no report"
        report.write("}\n")
    assert server.state == "ready"


def test_the_previous_log_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start(READY)
    (tmp_path / "log").write_text("this run\n")
    none_yet = CliRunner().invoke(logs, ["model", "--previous"])
    assert isinstance(none_yet.exception, BadInput)
    (tmp_path / "log.1").write_text("the run before\n")
    assert CliRunner().invoke(logs, ["model", "--previous"]).output == "the run before\n"
    assert CliRunner().invoke(logs, ["model"]).output == "this run\n"
    assert isinstance(CliRunner().invoke(logs, ["model", "--previous", "-f"]).exception, UsageError)


def test_a_name_is_taken_once() -> None:
    start(READY)
    with pytest.raises(UsageError, match="runs already"):
        start(READY)


def test_whoever_ignores_sigterm_is_killed() -> None:
    server, _ = start(STUBBORN)
    stop_server(server, seconds=0.2)
    assert not server.is_alive


def test_what_a_crash_left_behind_is_recognised() -> None:
    server, _ = start(READY)
    os.kill(server.pid, signal.SIGKILL)
    os.waitpid(server.pid, 0)
    assert list_servers() == ()
    assert not server.directory.exists()


GIVEN_UP = (
    "import sys, time; print('{\"ok\": true}', flush=True); time.sleep(0.3); "
    'print(\'{"ok": false, "restarting_in": 0}\'); '
    'print(\'{"error": {"message": "The engine was given up.", "exit_code": 5}}\'); sys.exit(5)'
)


def await_end(server: Server) -> None:
    deadline = time.monotonic() + 20
    while server.is_alive and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not server.is_alive


def test_a_server_that_was_given_up_stays_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").write_text("its last words\n")
    server, _ = start(GIVEN_UP)
    await_end(server)
    (found,) = list_servers()
    assert (found.state, found.failure) == ("failed", "The engine was given up.")
    assert found.as_json()["reason"] == "The engine was given up."
    listed = CliRunner().invoke(ps, []).output
    assert "failed" in listed
    assert "The engine was given up." in listed
    assert CliRunner().invoke(logs, ["model", "-f"]).output == "its last words\n"
    stop_server(found)
    assert list_servers() == ()


def test_a_failed_server_is_replaced_by_a_new_one_of_its_name() -> None:
    server, _ = start(GIVEN_UP)
    await_end(server)
    again, code = start(READY)
    assert code is None
    assert find_server("model").pid == again.pid
    assert find_server("model").state == "ready"


def test_a_failed_check_after_a_restart_is_the_reason() -> None:
    server, _ = start(READY)
    rungs = [{"name": "generate", "ok": True}, {"name": "stop", "ok": False, "detail": "never stops"}]
    with (server.directory / "report").open("a") as report:
        report.write(json.dumps({"ok": False, "rungs": rungs}) + "\n")
    assert server.failure is None, "it runs"
    os.kill(server.pid, signal.SIGKILL)
    await_end(server)
    assert server.failure == "rung stop: never stops"


def test_a_server_is_listed_even_when_the_command_that_starts_it_is_killed_at_once(cache: Path) -> None:
    """Its entry is written by the process that becomes the server, under the lock that it has inherited."""
    code = (
        "import os, signal\n"
        "from deploy import servers\n"
        "from tests.deploy.test_servers import READY, start\n"
        "spawn = os.posix_spawn\n"
        "def spawn_and_die(*words, **more):\n"
        "    spawn(*words, **more)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.posix_spawn = spawn_and_die\n"
        "start(READY)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    (server,) = list_servers()
    assert server.is_alive


def test_a_command_that_cannot_be_run() -> None:
    shown: list[str] = []
    facts = {"engine": "fake", "model": "dir", "url": "http://127.0.0.1:1", "engine_log": Path("log")}
    _, code = start_server(["/nowhere"], name="x", env={}, show=shown.append, **facts)  # type: ignore[arg-type]
    assert code == 127
    assert "Cannot run /nowhere" in "".join(shown)
    assert list_servers() == ()


def test_a_process_id_that_was_given_out_again_is_not_ours(cache: Path) -> None:
    server, _ = start(READY)
    entry = server.directory / "server.json"
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "born": server.born - 1}))
    assert list_servers() == ()
    os.kill(server.pid, signal.SIGKILL)


def test_a_damaged_entry_is_removed(cache: Path) -> None:
    (cache / "servers" / "x").mkdir(parents=True)
    (cache / "servers" / "x" / "server.json").write_text("{")
    assert list_servers() == ()
    assert not (cache / "servers" / "x").exists()


def test_a_directory_without_an_entry_is_removed(cache: Path) -> None:
    """The command that was starting it was killed before it had written who it is."""
    (cache / "servers" / "x").mkdir(parents=True)
    (cache / "servers" / "x" / "report").write_text("")
    assert list_servers() == ()
    assert not (cache / "servers" / "x").exists()


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(BadInput, match="None was started"):
        find_server("x")
    start(READY, "known")
    with pytest.raises(BadInput, match="known"):
        find_server("x")


def test_ctrl_c_while_waiting_leaves_nothing(cache: Path) -> None:
    code = (
        "import sys; from tests.deploy.test_servers import start, SLOW\n"
        "try: start(SLOW)\n"
        "except KeyboardInterrupt: sys.exit(130)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2]) as process:
        deadline = time.monotonic() + 20
        while not list_servers() and time.monotonic() < deadline:
            time.sleep(0.05)
        (server,) = list_servers()
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert not server.is_alive
    assert list_servers() == ()
