"""`run_install`: do what a plan says, under another name until it is complete.

One installation into a place at a time; what an interrupted one has left beside it is removed. Does not know
engines nor where anything comes from.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deploy.engines.environments import environment_at, program_at
from deploy.install.download import fetch_release
from deploy.install.environment import add_alias, make_environment
from deploy.install.plan import InstallPlan
from errors import EngineMissing, OutputError
from files import replacing_directory

__all__ = ["InstallView", "Installed", "run_install"]


class InstallView(Protocol):
    """Who is told what happens."""

    def step(self, what: str) -> None:
        """Something new begins."""

    def line(self, text: str) -> None:
        """The latest words of the program that runs."""

    def bytes(self, done: int, total: int) -> None:
        """How much of a download is there; `total` 0: nobody knows."""


@dataclass(frozen=True)
class Installed:
    """What is there now. `already`: it was there before, and nothing was done."""

    plan: InstallPlan
    version: str | None
    already: bool

    def as_json(self) -> dict[str, Any]:
        return {**self.plan.as_json(), "version": self.version, "already": self.already}


def run_install(plan: InstallPlan, view: InstallView, *, again: bool = False) -> Installed:
    """Install what the plan names, unless it is there already; `again`: then, too.

    Raises `EngineMissing` when a command fails or a download is not to be had, and `OutputError`.
    """
    with _alone(plan.path):
        if not again and (found := _found(plan)):
            return Installed(plan, found[0], already=True)
        _refuse_strangers(plan)
        with replacing_directory(plan.path) as partial:
            if plan.release is not None:
                fetch_release(plan.release, partial, view)
            else:
                make_environment(plan, partial, view)
        found = _found(plan)
        if found is None:
            shutil.rmtree(plan.path, ignore_errors=True)
            raise EngineMissing(f"What was installed in {plan.path} holds no {plan.engine}.")
        if plan.alias:
            add_alias(plan.path, *plan.alias)
        return Installed(plan, found[0], already=False)


def _found(plan: InstallPlan) -> tuple[str | None] | None:
    """Return the version of what is in the plan's place (None: it has no number), or nothing."""
    if plan.release is not None:
        return (None,) if program_at(plan.path, plan.place) else None
    found = environment_at(plan.path, plan.place, plan.distributions)
    return (next(iter(found.versions.values())),) if found and found.versions else None


def _refuse_strangers(plan: InstallPlan) -> None:
    """A directory of somebody else's is not replaced."""
    path = plan.path
    ours = _found(plan) is not None or not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if not ours:
        raise OutputError(f"{path} exists, and is no {plan.engine}.", hint="Name another place with --path.")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep a second installation out, and remove what an earlier one left when it was killed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = (path.parent / f".{path.name}.lock").open("w")
    except OSError as error:
        raise OutputError(f"Cannot write to {path.parent}: {error.strerror}.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(
                f"Another installation into {path} is under way.", hint="Wait for it to end."
            ) from error
        for left in path.parent.glob(f".{path.name}.*.part"):
            shutil.rmtree(left, ignore_errors=True)
        yield
