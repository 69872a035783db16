"""Servers that outlive the command that started them: `serve --detach`, `ps`, `logs`, `stop`.

Each is an ordinary `portside serve` in a session of its own, with a directory of its own in the cache:

    servers/NAME/server.json    who it is: engine, URL, process id and when that process was born
    servers/NAME/report         what `serve --json` says once the ladder has been climbed
    servers/NAME/messages       what it would have shown on a terminal

A process id alone proves nothing after a crash or a reboot; with its birth it does, so an entry whose process
was killed is recognised and removed. One whose supervisor gave up stays, with the reason, until it is stopped
or replaced. Does not know engines: stopping is the supervisor's business.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deploy import enrol
from deploy.process import previous_log
from errors import BadInput, EngineFailed, UsageError
from files import cache_dir

__all__ = ["Server", "find_server", "list_servers", "start_server", "stop_server"]

STOP_SECONDS = 25.0
"""From SIGTERM to SIGKILL: longer than the supervisor gives its engine."""
_ENTRY, _REPORT, _MESSAGES = "server.json", "report", "messages"
_LOCK_FD = 3
"""The descriptor by which a server that is being started holds the lock."""


@dataclass(frozen=True)
class Server:
    """One server that was started with `--detach`."""

    name: str
    engine: str
    model: str
    url: str
    engine_log: Path
    pid: int
    """Of its supervisor."""
    born: int
    """When that process started, in clock ticks since the machine did."""

    @property
    def directory(self) -> Path:
        return _root() / quote(self.name, safe="")

    @property
    def messages(self) -> Path:
        return self.directory / _MESSAGES

    @property
    def previous_log(self) -> Path:
        """What the engine wrote in the run before this one; missing when there was none."""
        return previous_log(self.engine_log)

    @property
    def is_alive(self) -> bool:
        return _born(self.pid) == self.born

    def report(self) -> Mapping[str, Any] | None:
        """Return what the ladder found, the last time it was climbed; None while it is the first time."""
        try:
            text = (self.directory / _REPORT).read_text(encoding="utf-8")
            found = json.loads(text[: text.rindex("\n")].rpartition("\n")[2])
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    @property
    def failure(self) -> str | None:
        """Why the supervisor gave up, None while it runs, and when it was killed instead."""
        report = None if self.is_alive else self.report()
        if report is None or report.get("ok") is True or "restarting_in" in report:
            return None
        error = report.get("error")
        if isinstance(error, dict):
            return str(error.get("message"))
        failed = [rung for rung in report.get("rungs", ()) if rung.get("ok") is False]
        return f"rung {failed[0]['name']}: {failed[0]['detail']}" if failed else "it ended by itself"

    @property
    def state(self) -> str:
        report = self.report()
        if self.failure is not None:
            return "failed"
        if report is None:
            return "starting"
        if "restarting_in" in report:
            return "restarting"
        return "ready" if report.get("ok") else "unhealthy"

    def as_json(self) -> dict[str, Any]:
        facts = {key: value for key, value in asdict(self).items() if key != "born"}
        return {**facts, "engine_log": str(self.engine_log), "state": self.state, "reason": self.failure}


def list_servers() -> tuple[Server, ...]:
    """Return the servers that run or gave up, by name; what is left of killed ones is removed."""
    with _locked():
        return tuple(_entries())


def find_server(name: str) -> Server:
    """Return the server `name`, be it that it gave up. Raises `BadInput` when there is none."""
    known = {server.name: server for server in list_servers()}
    if name in known:
        return known[name]
    names = ", ".join(known)
    raise BadInput(
        f"No server named {name!r} runs.", hint=f"There are: {names}." if names else "None was started."
    )


def start_server(
    command: Sequence[str],
    *,
    name: str,
    engine: str,
    model: str,
    url: str,
    engine_log: Path,
    env: Mapping[str, str],
    show: Callable[[str], None],
) -> tuple[Server, int | None]:
    """Start `command`, a `portside serve --json`, in a session of its own and wait for its report.

    `env` is added to the environment; `show` is handed what the server tells in the meantime. Returns the
    server and, where it ended instead of serving, its exit code. Raises `UsageError` for a taken name.
    """
    with _locked() as lock:
        if any(server.name == name and server.is_alive for server in _entries()):
            raise UsageError(
                f"A server named {name!r} runs already.",
                hint=f"`portside stop {name}` ends it; --name gives this one another name.",
            )
        facts = {"engine": engine, "model": model, "url": url, "engine_log": engine_log}
        server = _launch(command, env, name, facts, lock)
    try:
        code = _await_report(server, "--allow-unhealthy" in command, show)
    except BaseException:
        stop_server(server)
        raise
    if code is not None:
        shutil.rmtree(server.directory, ignore_errors=True)
    return server, code


def stop_server(server: Server, *, seconds: float = STOP_SECONDS) -> None:
    """End `server` and wait until it is gone. Raises `EngineFailed` when it cannot be ended."""
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        if server.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, number)
        deadline = time.monotonic() + patience
        while server.is_alive and time.monotonic() < deadline:
            time.sleep(0.05)
    if server.is_alive:
        raise EngineFailed(f"The server {server.name} (process {server.pid}) cannot be ended.")
    shutil.rmtree(server.directory, ignore_errors=True)


def _await_report(server: Server, allow_unhealthy: bool, show: Callable[[str], None]) -> int | None:
    """Wait until `server` serves (None) or has ended (its exit code), handing on what it tells."""
    with server.messages.open(encoding="utf-8", errors="replace") as told:
        while True:
            code, report = _exit_code(server.pid), server.report()
            show(told.read())
            if code is not None or (report is not None and _serves(report, allow_unhealthy)):
                return code
            time.sleep(0.05)


def _serves(report: Mapping[str, Any], allow_unhealthy: bool) -> bool:
    """The ladder was climbed, and the server goes on; an error is told right before the end."""
    return report.get("ok") is True or (allow_unhealthy and "rungs" in report)


def _exit_code(pid: int) -> int | None:
    """Return the exit code of our child `pid` (minus a signal's number), None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _launch(
    command: Sequence[str], env: Mapping[str, str], name: str, facts: Mapping[str, Any], lock: int
) -> Server:
    """Start `command` in a session of its own; its entry is written before it becomes that command."""
    directory = _root() / quote(name, safe="")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    entry = json.dumps({"name": name, **facts, "engine_log": str(facts["engine_log"])})
    enrolled = [sys.executable, "-I", "-S", enrol.__file__, str(directory / _ENTRY), entry, str(_LOCK_FD)]
    with (directory / _REPORT).open("wb") as report, (directory / _MESSAGES).open("wb") as messages:
        # Not subprocess: the child is meant to outlive whoever would wait for it.
        pid = os.posix_spawn(
            sys.executable,
            [*enrolled, *command],
            {**os.environ, **env},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, report.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, messages.fileno(), 2),
                (os.POSIX_SPAWN_DUP2, lock, _LOCK_FD),
            ],
            setsid=True,  # closing the terminal must not reach it
        )
    return Server(name=name, pid=pid, born=_born(pid) or 0, **facts)


def _entries() -> Iterator[Server]:
    for directory in sorted(entry for entry in _root().iterdir() if entry.is_dir()):
        entry = directory / _ENTRY  # missing where it was killed before it could write it
        try:
            facts = json.loads(entry.read_text(encoding="utf-8"))
            server = Server(**{**facts, "engine_log": Path(facts["engine_log"])})
        except (OSError, ValueError, TypeError, KeyError):
            server = None
        if server is not None and (server.is_alive or server.failure is not None):
            yield server
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _root() -> Path:
    return cache_dir() / "servers"


@contextlib.contextmanager
def _locked() -> Iterator[int]:
    """Hold the lock of all entries, so that commands at the same time see the same; yield its descriptor."""
    _root().mkdir(parents=True, exist_ok=True)
    with (_root() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _born(pid: int) -> int | None:
    """Return when process `pid` started (field 22 of /proc/PID/stat); None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])
