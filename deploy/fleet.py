"""`Fleet`: several servers started one after the other as memory allows, watched together, ended together.

Each is served by a thread of this process, with an engine on its own leash: however this process ends, no
engine is left. Knows the order, the budget and the states. Prints nothing: the listener is told. Does not
know the file that says which servers there are, nor how an engine is planned.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from deploy.engines.base import ServePlan
from deploy.memory import MemoryNeed, available_memory
from deploy.report import HealthReport, Rung
from deploy.restarts import Restarts
from deploy.supervise import Serving
from errors import EngineFailed, Interrupted, PortsideError

__all__ = ["Budget", "Fleet", "FleetView", "Member"]

State = Literal[
    "waiting", "preparing", "starting", "ready", "restarting", "failed", "skipped", "stopping", "stopped"
]
_OVER: tuple[State, ...] = ("failed", "skipped", "stopped")
_LOOK = 0.1
"""Seconds between two looks at what can be started next."""


@dataclass
class Member:
    """One server of a fleet, and how it fares; it is the view that its serving is told through."""

    plan: ServePlan
    need: MemoryNeed
    after: tuple[str, ...] = ()
    restarts: Restarts | None = None
    replan: Callable[[], ServePlan] | None = None
    """Makes the plan anew when it is its turn: by then, servers run that did not before."""
    state: State = "waiting"
    detail: str = ""
    error: PortsideError | None = None
    report: HealthReport | None = None
    pid: int | None = None
    asked_to_stop: threading.Event = field(default_factory=threading.Event)
    serving: Serving | None = None
    thread: threading.Thread | None = None
    changed: Callable[[Member], None] = lambda member: None

    @property
    def name(self) -> str:
        return self.plan.name

    def become(self, state: State, detail: str = "") -> None:
        if (state, detail) != (self.state, self.detail):
            self.state, self.detail = state, detail
            self.changed(self)

    def as_json(self) -> dict[str, Any]:
        error = self.error
        return {
            "name": self.name,
            "engine": self.plan.engine,
            "url": self.plan.url,
            "state": self.state,
            "pid": self.pid,
            "memory": self.need.as_json(),
            "health": None if self.report is None else self.report.as_json(),
            "error": None if error is None else {"message": error.message, "exit_code": error.exit_code},
        }

    def progress(self, done: int, total: int) -> None:
        """Told while the model is prepared; raises `Interrupted` when it is not wanted any more."""
        if self.asked_to_stop.is_set():
            raise Interrupted
        self.become("preparing", f"the model, {100 * done // max(1, total)} %")

    def starting(self) -> None:
        self.become("starting")

    def waiting(self, seconds: float, last_line: str) -> None:
        self.become(self.state, f"loading for {seconds:.0f} s  {last_line[:60]}")

    def rung(self, rung: Rung) -> None:
        if rung.ok is not None:
            self.become(self.state, f"{rung.name} {'passed' if rung.ok else 'failed'}")

    def checked(self, report: HealthReport, pid: int | None) -> None:
        self.report, self.pid = report, pid

    def ready(self) -> None:
        assert self.report is not None
        passed = sum(rung.ok is True for rung in self.report.rungs)
        self.become("ready", f"health {passed}/{len(self.report.rungs)}")

    def restarting(self, seconds: float, error: EngineFailed) -> None:
        self.pid = None
        self.become("restarting", f"in {seconds:.0f} s; {error.message[:80]}")

    def stopping(self) -> None:
        self.become("stopping")


@dataclass
class Budget:
    """What the servers of one place may take together. `free` is asked each time, `total` is the bound."""

    total: int
    free: Callable[[], int]
    taken: int = 0

    def fits(self, need: int) -> bool:
        return need <= self.left()

    def left(self) -> int:
        """Return what is free now, or would be if those that started had taken all they need."""
        return min(self.free(), self.total - self.taken)


class FleetView(Protocol):
    """Who is told what happens."""

    def changed(self, member: Member) -> None: ...

    def settled(self, members: Sequence[Member]) -> None:
        """Every server is ready or has failed, for the first time."""


class Fleet:
    """`together`: one failure ends all. `overcommit`: memory is not looked at.

    `memory`: bytes that servers in the machine's memory may take together; `grace`: seconds between SIGTERM
    and SIGKILL.
    """

    def __init__(
        self,
        members: Iterable[Member],
        view: FleetView,
        *,
        together: bool = False,
        overcommit: bool = False,
        memory: int | None = None,
        grace: float = 10.0,
    ) -> None:
        self.members = tuple(members)
        self.view = view
        self.together = together
        self.overcommit = overcommit
        self.grace = grace
        self.budgets = {place: _budget(place, memory) for place in ("RAM", "GPU")}
        self.started: list[Member] = []
        for member in self.members:
            member.changed = view.changed

    def require_memory(self) -> None:
        """Raise `EngineFailed` with the numbers when not all can ever run at the same time."""
        if self.overcommit:
            return
        for place, budget in self.budgets.items():
            needs = [member for member in self.members if member.need.place == place]
            total = sum(member.need.total for member in needs)
            if total > budget.total:
                each = ", ".join(f"{member.name} {_gib(member.need.total)}" for member in needs)
                raise EngineFailed(
                    f"The servers need {_gib(total)} of {place} ({each}), and there are "
                    f"{_gib(budget.total)}.",
                    hint="Leave one out, choose a smaller type or context, set `memory` where the estimate "
                    "is wrong, or `overcommit = true` under [up].",
                )

    def run(self, asked_to_stop: threading.Event) -> int:
        """Start all, wait for the event, end all in reverse order.

        Returns 0, or the exit code of the first that failed; raises `Interrupted` when it was ended before
        any was ready. When none is left it ends by itself.
        """
        settled = False
        try:
            while not asked_to_stop.wait(_LOOK):
                self._start_next()
                settled = settled or self._tell_settled()
                failed = any(member.state == "failed" for member in self.members)
                if all(member.state in _OVER for member in self.members) or (failed and self.together):
                    break
        finally:
            self.stop()
        code = next((member.error.exit_code for member in self.members if member.error is not None), 0)
        if not settled and not code:
            raise Interrupted
        return code

    def stop(self) -> None:
        """End all servers, the last started first, and wait for each."""
        for member in reversed(self.started):
            member.asked_to_stop.set()
            if member.thread is not None:
                member.thread.join()
        for member in self.members:
            if member.state == "waiting":
                member.become("stopped")

    def hurry(self) -> None:
        """Kill what has not ended by itself."""
        for member in self.started:
            member.asked_to_stop.set()
            if member.serving is not None:
                member.serving.hurry()

    def _tell_settled(self) -> bool:
        if any(member.state in ("waiting", "preparing", "starting") for member in self.members):
            return False
        self.view.settled(self.members)
        return True

    def _start_next(self) -> None:
        """Start the neediest of those whose turn it is and who fit; one at a time."""
        if any(member.state in ("preparing", "starting") for member in self.started):
            return
        states = {member.name: member.state for member in self.members}
        waiting = [member for member in self.members if member.state == "waiting"]
        for member in sorted(waiting, key=lambda member: -member.need.total):
            lost = [name for name in member.after if states[name] in _OVER]
            if lost:
                member.become("skipped", f"{lost[0]} is not there")
            elif any(states[name] != "ready" for name in member.after):
                member.become("waiting", f"for {', '.join(member.after)}")
            elif self.has_room(member):
                self._start(member)
                return

    def in_order(self) -> list[Member]:
        """Return the members as they are started when all goes well."""
        done: list[Member] = []
        left = sorted(self.members, key=lambda member: -member.need.total)
        while left:
            names = {member.name for member in done}
            turn = next((member for member in left if names.issuperset(member.after)), left[0])
            left.remove(turn)
            done.append(turn)
        return done

    def has_room(self, member: Member) -> bool:
        """Tell whether there is memory for it now; its detail has the numbers when there is not."""
        budget = self.budgets[member.need.place]
        if self.overcommit or budget.fits(member.need.total):
            return True
        needs, left = _gib(member.need.total), _gib(max(0, budget.left()))
        if not member.detail.startswith("for memory"):  # what is free changes all the time
            member.become("waiting", f"for memory: needs {needs} of {member.need.place}, {left} are free")
        return False

    def take(self, member: Member) -> None:
        """Count its memory as taken."""
        self.budgets[member.need.place].taken += member.need.total

    def _start(self, member: Member) -> None:
        self.take(member)
        member.become("preparing" if member.plan.artifact else "starting")
        self.started.append(member)
        member.thread = threading.Thread(target=self._serve, args=(member,), name=member.name)
        member.thread.start()

    def _serve(self, member: Member) -> None:
        """What the thread of one server does."""
        try:
            if member.replan is not None:
                member.plan = member.replan()
            member.plan.prepare(member.progress)
            member.serving = Serving(member.plan, member, grace=self.grace, restarts=member.restarts)
            member.serving.run(member.asked_to_stop)
        except Interrupted:
            pass
        except PortsideError as error:
            member.error = error
        except Exception as error:  # noqa: BLE001 - it must not take the others with it
            member.error = PortsideError(f"This is a bug in Portside ({type(error).__name__}: {error}).")
        finally:
            member.pid = None
            self.budgets[member.need.place].taken -= member.need.total
            if member.error is None:
                member.become("stopped")
            else:
                member.become("failed", member.error.message.splitlines()[0])


def _budget(place: Literal["RAM", "GPU"], memory: int | None) -> Budget:
    free, total = available_memory(place)
    if place == "RAM" and memory is not None:
        return Budget(memory, lambda: memory)
    return Budget(total if place == "GPU" else free, lambda: available_memory(place)[0])


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
