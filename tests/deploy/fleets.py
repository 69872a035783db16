"""Fleets of the fake engine, in this process or as one that a test may kill.

python -m tests.deploy.fleets DIRECTORY PORT…     what `portside up` does, with engines that fork
                                                  grandchildren and ignore SIGTERM
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deploy import Restarts
from deploy.fleet import Fleet, Member
from deploy.memory import MemoryNeed
from deploy.ports import free_port
from deploy.signals import end_signals
from tests.deploy.supervised import fake_plan

__all__ = ["FleetRecorder", "member"]


class FleetRecorder:
    """A view that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.final: dict[str, str] = {}

    def changed(self, member: Member) -> None:
        line = f"{member.name} {member.state}"
        if line not in self.told[-1:]:
            self.told.append(line)

    def settled(self, members: Sequence[Member]) -> None:
        self.final = {member.name: member.state for member in members}


def member(
    directory: Path,
    name: str,
    *flags: str,
    port: int = 0,
    needs: int = 100,
    after: tuple[str, ...] = (),
    restarts: Restarts | None = None,
) -> Member:
    """Return a member that serves the fake engine, which takes `needs` bytes."""
    plan = fake_plan(directory / name, port or free_port(), "--name", name, *flags)
    return Member(replace(plan, name=name), MemoryNeed(needs, 0, 0), after, restarts)


def main(directory: Path, ports: list[int]) -> int:
    stubborn = ("--ignore-sigterm", "--grandchildren", "1")
    members = [member(directory, f"s{port}", *stubborn, port=port) for port in ports]
    view = FleetRecorder()
    fleet = Fleet(members, view, grace=0.3)
    with end_signals(fleet.hurry) as asked_to_stop:
        return fleet.run(asked_to_stop)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
