"""The leash: a small process between the supervisor and the engine, so that no engine is ever left behind.

    supervisor ── leash ── engine ── its workers, and theirs

Run by path with the standard library only: `python -I -S leash.py GRACE LIFELINE STATUS PARENT ARGV…`.

The leash is told to stop by SIGTERM, by a line `stop SECONDS` on the lifeline (a pipe), and by the end of the
lifeline, which the kernel closes however the supervisor dies. It then asks the engine with SIGTERM, waits for
the grace, and kills every descendant: it is their subreaper, so that even a grandchild with a session of its
own is found below it. When the engine ends by itself, what it left behind goes the same way.
On the status pipe it reports `started PID`, then `exited CODE` or `signaled NUMBER`, then `cleared COUNT`
(descendants that had to be killed). Its own exit status is the engine's, 128 + N for a signal.

Does not know: what the engine is, nor any other module (it must start in a few milliseconds).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

__all__ = ["main"]

LEFTOVER_GRACE = 2.0
"""Seconds that descendants get after SIGTERM when the engine itself has already ended."""

KILL_PATIENCE = 3.0
"""Seconds that killed processes get to disappear."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ORPHANED = signal.SIGUSR1
"""What the kernel sends when the supervisor's thread that started us ends; then the parent is looked at."""


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def descendants(root: int) -> set[int]:
    """Return the ids of all living (not zombie) processes below `root`, from /proc."""
    children: dict[int, list[tuple[int, bool]]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # "pid (name, which may hold anything) state ppid …"
            state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        children.setdefault(int(parent), []).append((int(entry.name), state in "ZX"))
    found: set[int] = set()
    todo = [root]
    while todo:
        for pid, dead in children.get(todo.pop(), ()):
            todo.append(pid)
            if not dead:
                found.add(pid)
    return found


class Leash:
    """One engine on its leash."""

    def __init__(self, grace: float, lifeline: int, status: int, parent: int) -> None:
        self.grace = grace
        self.lifeline = lifeline
        self.status = status
        self.parent = parent
        self.engine = 0
        self.code: int | None = None
        self.deadline: float | None = None
        """When whatever still lives is killed; None while the engine is wanted."""
        self.wakeup, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, _ORPHANED):
            signal.signal(number, lambda *_: None)
        _prctl(_PR_SET_PDEATHSIG, _ORPHANED)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def run(self, argv: list[str]) -> int:
        """Start the engine, wait for its end and for the end of all it started; return its status."""
        if os.getppid() != self.parent:
            return 1  # the supervisor died before the kernel knew that we care
        self._start(argv)
        while self.code is None or self._leftovers():
            self._wait()
            self._reap()
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self._kill()
                break
        return 128 + signal.SIGKILL if self.code is None else self.code

    def _start(self, argv: list[str]) -> None:
        self.engine = os.fork()
        if self.engine == 0:
            try:
                os.setsid()
                _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # should the leash itself be killed
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # exec passes on that Python ignores it
                os.execvp(argv[0], argv)
            except OSError as error:
                os.write(2, f"portside: cannot run {argv[0]}: {error.strerror}\n".encode())
            os._exit(127)
        self._report(f"started {self.engine}")

    def _wait(self) -> None:
        """Sleep until a signal, a word on the lifeline, or the time to look again."""
        watched = [self.wakeup] if self.lifeline < 0 else [self.wakeup, self.lifeline]
        timeout = None if self.deadline is None else min(0.1, max(0.0, self.deadline - time.monotonic()))
        ready, _, _ = select.select(watched, [], [], timeout)
        if self.wakeup in ready:
            for number in os.read(self.wakeup, 64):
                if number == _ORPHANED and os.getppid() == self.parent:
                    continue  # only a thread of the supervisor ended
                if number != signal.SIGCHLD:
                    self._stop(self.grace)
        if self.lifeline in ready:
            self._hear(os.read(self.lifeline, 256).decode(errors="replace"))

    def _hear(self, text: str) -> None:
        if not text:
            self.lifeline = -1
            self._stop(self.grace)
        for line in text.splitlines():
            word, _, seconds = line.partition(" ")
            if word == "stop":
                self._stop(float(seconds or self.grace))

    def _stop(self, grace: float) -> None:
        """Ask the engine to end, once; a later, shorter grace brings the deadline forward."""
        deadline = time.monotonic() + grace
        first = self.deadline is None
        self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)
        if first and self.code is None:
            self._signal({self.engine}, signal.SIGTERM)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.engine:
                self._ended(os.waitstatus_to_exitcode(status))

    def _ended(self, code: int) -> None:
        self._report(f"exited {code}" if code >= 0 else f"signaled {-code}")
        self.code = code if code >= 0 else 128 - code
        latest = time.monotonic() + LEFTOVER_GRACE
        self.deadline = latest if self.deadline is None else min(self.deadline, latest)
        self._signal(descendants(os.getpid()), signal.SIGTERM)

    def _leftovers(self) -> bool:
        """Tell whether anything still lives below us (its zombies are reaped on the way)."""
        self._reap()
        return bool(descendants(os.getpid()))

    def _kill(self) -> None:
        """Kill all that lives below us, until nothing is left: a process may fork while we look.

        What does not end within seconds hangs inside the kernel (a driver) or is not ours to kill.
        """
        killed: set[int] = set()
        patience = time.monotonic() + KILL_PATIENCE
        while (living := descendants(os.getpid())) and time.monotonic() < patience:
            self._signal(living, signal.SIGKILL)
            killed |= living
            time.sleep(0.01)
            self._reap()
        self._reap()
        self._report(f"cleared {len(killed)}")

    @staticmethod
    def _signal(pids: set[int], number: signal.Signals) -> None:
        for pid in pids:
            # it ended meanwhile, or it is a set-uid child that is not ours to end
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _report(self, line: str) -> None:
        # when nobody listens any more, the work goes on
        with contextlib.suppress(BrokenPipeError):
            os.write(self.status, f"{line}\n".encode())


def main(arguments: list[str]) -> int:
    """Run the leash from its command line; see the module's text."""
    grace, lifeline, status, parent = float(arguments[0]), *(int(text) for text in arguments[1:4])
    for descriptor in (lifeline, status):
        os.set_inheritable(descriptor, False)
    return Leash(grace, lifeline, status, parent).run(arguments[4:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
