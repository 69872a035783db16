"""`EngineProcess`: an engine as a child process on its leash, with a log file.

Knows: starting without a shell, the environment, death told at once, the last lines of the log, and a stop
that leaves nothing behind. Does not know what the engine is, nor HTTP.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from deploy import leash
from errors import EngineFailed, OutputError

__all__ = ["EngineProcess", "ExitStatus"]

LEASH_MARGIN = 5.0
"""Seconds the leash gets beyond the grace before it is killed itself."""

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|[\x00-\x08\x0b-\x1f\x7f]")
_TAIL_BYTES = 256 * 1024


@dataclass(frozen=True)
class ExitStatus:
    """How a process ended: by itself with `code`, or by the signal number `signal`."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit code {self.code}"
        with contextlib.suppress(ValueError):
            return f"signal {self.signal} ({signal.Signals(self.signal).name})"
        return f"signal {self.signal}"


class EngineProcess:
    """One engine; use it as a context manager, or call `stop` whatever happens.

    `env` is added to this process's environment after the names that match `cleared` (patterns such as
    `VLLM_*PORT*`) were taken out. `grace`: seconds between SIGTERM and SIGKILL. `directory` is the engine's
    working directory, by default this process's.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cleared: Sequence[str] = (),
        grace: float = 10.0,
        directory: Path | None = None,
    ) -> None:
        self.argv = tuple(argv)
        self.log = log
        self.directory = directory
        self.grace = grace
        self.pid: int | None = None
        """The engine's process id (the leash's is another), once it runs."""
        self._env = environment(env or {}, cleared)
        self._leash: subprocess.Popen[bytes] | None = None
        self._lifeline: int | None = None
        self._status: int | None = None
        self._unread = ""
        self._exit: ExitStatus | None = None

    def __enter__(self) -> EngineProcess:
        if self._leash is None:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the engine. Its log is written anew; the previous one is kept as `LOG.1`."""
        lifeline_read, self._lifeline = os.pipe()
        self._status, status_write = os.pipe()
        numbers = (str(self.grace), str(lifeline_read), str(status_write), str(os.getpid()))
        try:
            with open_log(self.log) as log:
                self._leash = subprocess.Popen(
                    [sys.executable, "-I", "-S", leash.__file__, *numbers, *self.argv],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._env,
                    cwd=self.directory,
                    pass_fds=(lifeline_read, status_write),
                    start_new_session=True,  # Ctrl-C in the terminal is the supervisor's to handle
                )
        except OSError as error:
            self._close()
            raise EngineFailed(
                f"Cannot start {error.filename or sys.executable}: {error.strerror}."
            ) from error
        finally:
            os.close(lifeline_read)
            os.close(status_write)
        self._listen(timeout=10.0)

    def poll(self) -> ExitStatus | None:
        """Return how the engine ended, None while it runs."""
        if self._exit is None:
            self._listen(timeout=0.0)
        return self._exit

    def wait(self, timeout: float | None = None) -> ExitStatus | None:
        """Wait until the engine ends; None when it still runs after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None and self._status is not None:
            left = 3600.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return None
            self._listen(timeout=left)
        return self._exit

    def tail(self, lines: int = 20) -> list[str]:
        """Return the last `lines` lines of the log, free of terminal control sequences."""
        return last_lines(self.log, lines)

    def stop(self, grace: float | None = None) -> ExitStatus | None:
        """End the engine and all it started: SIGTERM, `grace` seconds, SIGKILL; then nothing is left.

        Returns how the engine ended (None if it was never started). Calling it again does nothing.
        Raises `EngineFailed` in the one case that is out of reach: processes that the kernel will not end.
        """
        if self._leash is None:
            return None
        grace = self.grace if grace is None else grace
        self._tell(f"stop {grace}\n")
        try:
            self._leash.wait(grace + LEASH_MARGIN)
        except subprocess.TimeoutExpired:
            self._leash.kill()
            self._leash.wait()
        self._listen(timeout=0.0)
        self._close()
        if self.pid is not None and not group_is_empty(self.pid):
            raise EngineFailed(f"Processes of the engine (group {self.pid}) do not end even when killed.")
        return self._exit

    def hurry(self) -> None:
        """Cut the grace of a stop that is under way: what still lives is killed now."""
        self._tell("stop 0\n")

    def _tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            if self._lifeline is not None:
                os.write(self._lifeline, line.encode())

    def _listen(self, timeout: float) -> None:
        """Take in what the leash has reported, waiting up to `timeout` seconds for a first word."""
        if self._status is None or self._exit is not None:
            return
        while select.select([self._status], [], [], timeout)[0]:
            data = os.read(self._status, 4096)
            if not data:
                if self._exit is None:
                    self._leash_is_gone()
                return
            *lines, self._unread = (self._unread + data.decode()).split("\n")
            for line in lines:
                self._note(line)
            timeout = 0.0

    def _note(self, line: str) -> None:
        word, _, number = line.partition(" ")
        if word == "started":
            self.pid = int(number)
        elif word == "exited":
            self._exit = ExitStatus(code=int(number))
        elif word == "signaled":
            self._exit = ExitStatus(signal=int(number))

    def _leash_is_gone(self) -> None:
        """The leash was killed before the engine ended: the kernel kills the engine, we kill its group."""
        self._exit = ExitStatus(signal=signal.SIGKILL)
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _close(self) -> None:
        for descriptor in (self._lifeline, self._status):
            if descriptor is not None:
                os.close(descriptor)
        self._lifeline = self._status = None


def environment(added: Mapping[str, str], cleared: Sequence[str]) -> dict[str, str]:
    """Return this process's environment without what matches `cleared`, with `added`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in cleared)
    }
    return kept | dict(added)


def group_is_empty(group: int) -> bool:
    """Tell whether the process group has no living member (waiting a moment for the kernel)."""
    for _ in range(50):
        if not any(_is_alive_in(group, entry) for entry in Path("/proc").glob("[0-9]*")):
            return True
        time.sleep(0.02)
    return False


def _is_alive_in(group: int, process: Path) -> bool:
    """A zombie does not count: it holds nothing, and a container's init may never reap it."""
    try:
        state, _, its_group = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
    except (OSError, ValueError):
        return False
    return int(its_group) == group and state not in "ZX"


def previous_log(path: Path) -> Path:
    """Return where the log of the run before is kept."""
    return path.with_name(path.name + ".1")


def open_log(path: Path) -> IO[bytes]:
    """Open the log for writing, for this user's eyes; an older one becomes `NAME.1`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.replace(previous_log(path))
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600), "wb")
    except OSError as error:
        raise OutputError(f"Cannot write the log {path}: {error.strerror}.") from error


def last_lines(path: Path, lines: int) -> list[str]:
    """Return the last lines of a text file without control sequences; [] when there is no file."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return []
    # a progress bar redraws its line with carriage returns: its last state is what counts
    found = [_CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in text.split("\n")]
    return [line for line in found if line.strip()][-lines:]
