"""What installing an engine looks like on a terminal: progress on stderr, the result on stdout."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.status import Status

from console import err, human_bytes, print_line

if TYPE_CHECKING:
    from deploy.install import Installed, InstallPlan

__all__ = ["InstallProgress", "show_commands", "show_installed"]

SIGN_OF_LIFE = 15.0
"""Seconds between two lines where stderr is not a terminal."""


class InstallProgress:
    """Tells each step, and beside it the latest words of what runs."""

    def __init__(self, plan: InstallPlan) -> None:
        self._plan = plan
        self._status: Status | None = None
        self._told = time.monotonic()

    def __enter__(self) -> InstallProgress:
        if err.is_terminal:
            self._status = err.status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def step(self, what: str) -> None:
        self._told = time.monotonic()
        err.print(f"[dim]{escape(what)}[/]", soft_wrap=True)

    def line(self, text: str) -> None:
        self._show(text)

    def bytes(self, done: int, total: int) -> None:
        self._show(f"{human_bytes(done)} of {human_bytes(total)}" if total else human_bytes(done))

    def _show(self, text: str) -> None:
        if self._status:
            self._status.update(escape(text[:100]))
        elif time.monotonic() - self._told >= SIGN_OF_LIFE:
            self._told = time.monotonic()
            err.print(f"[dim]  {escape(text[:100])}[/]", soft_wrap=True)


def show_commands(plan: InstallPlan) -> None:
    for command in plan.commands:
        print_line(command.line())
    for note in plan.notes:
        err.print(f"[dim]{escape(note)}[/]", soft_wrap=True)


def show_installed(done: Installed) -> None:
    version = f" {done.version}" if done.version else ""
    if done.already:
        print_line(f"{done.plan.engine}{version} is in {done.plan.path} already (--again makes it anew).")
        return
    print_line(f"Installed {done.plan.engine}{version} in {done.plan.path}")
    for note in done.plan.notes:
        err.print(f"[dim]{escape(note)}[/]", soft_wrap=True)
