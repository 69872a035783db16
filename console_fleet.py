"""What several servers look like on a terminal: one live table of their state, or a line for each change.

Knows rich and `deploy.fleet`. Does not know how a server is started.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from console import err, human_bytes, out, print_error, print_json_line, show_serve_plan

if TYPE_CHECKING:
    from deploy.fleet import Fleet, Member

__all__ = ["FleetView", "show_plans"]

_COLOURS = {"ready": "green", "failed": "bold red", "skipped": "red", "restarting": "yellow"}


class FleetView:
    """Tells a person, or with `as_json` a script, how the servers fare; the fleet calls it from threads."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._lock = threading.Lock()
        self._states: dict[str, str] = {}

    @contextlib.contextmanager
    def shown(self, members: Sequence[Member]) -> Iterator[None]:
        """Show the table while the block runs; lines where stderr is no terminal."""
        if not err.is_terminal:
            yield
            return
        with Live(console=err, get_renderable=lambda: _table(members), refresh_per_second=4):
            yield

    def changed(self, member: Member) -> None:
        with self._lock:
            if member.state == "failed" and member.error is not None:
                err.print(f"[bold red]{escape(member.name)}[/] failed.")
                print_error(member.error)
            elif not err.is_terminal and _words(member) != self._states.get(member.name):
                clock = time.strftime("%H:%M:%S")
                err.print(f"{clock} {escape(member.name)} {escape(_words(member))}", soft_wrap=True)
            self._states[member.name] = _words(member)

    def settled(self, members: Sequence[Member]) -> None:
        if self.as_json:
            good = all(member.state == "ready" for member in members)
            print_json_line({"ok": good, "servers": [member.as_json() for member in members]})
        elif any(member.state == "ready" for member in members):
            err.print("Ctrl-C stops all.")


def _words(member: Member) -> str:
    """Return the state as a line tells it: without what only moves while it is prepared and loads."""
    passing = member.state in ("preparing", "starting")
    return member.state if passing or not member.detail else f"{member.state} {member.detail}"


def _table(members: Sequence[Member]) -> Table:
    table = Table("name", "engine", "state", box=None, pad_edge=False, header_style="dim")
    for header in ("url", "memory"):
        table.add_column(header, no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis")
    for member in members:
        colour = _COLOURS.get(member.state, "cyan")
        table.add_row(
            escape(member.name),
            member.plan.engine,
            f"[{colour}]{member.state}[/]",
            member.plan.url,
            human_bytes(member.need.total),
            f"[dim]{escape(member.detail)}[/]",
        )
    return table


def show_plans(fleet: Fleet, *, as_json: bool) -> None:
    """Show every plan in the order of starting, and what it needs."""
    members = fleet.in_order()
    if as_json:
        plans = [
            {**member.plan.as_json(), "memory": member.need.as_json(), "after": list(member.after)}
            for member in members
        ]
        budgets = {place: max(0, budget.left()) for place, budget in fleet.budgets.items()}
        sys.stdout.write(json.dumps({"servers": plans, "memory_free": budgets}, indent=2) + "\n")
        return
    for member in members:
        out.print(f"[bold]{escape(member.name)}[/]")
        show_serve_plan(member.plan, as_json=False)
        out.print()
    show_needs(fleet)


def show_needs(fleet: Fleet) -> None:
    """Show the estimates, and what there is."""
    table = Table(
        "memory", "weights", "KV cache", "engine", "in all", box=None, pad_edge=False, header_style="dim"
    )
    for member in fleet.members:
        need = member.need
        parts = ("", "", "") if need.given is not None else (need.weights, need.cache, need.engine)
        shown = [human_bytes(part) if isinstance(part, int) else part for part in parts]
        table.add_row(escape(member.name), *shown, f"{human_bytes(need.total)} of {need.place}")
    out.print(table)
    for place in dict.fromkeys(member.need.place for member in fleet.members):
        total = sum(member.need.total for member in fleet.members if member.need.place == place)
        there = fleet.budgets[place].left()
        fits = "[green]fits[/]" if total <= there else "[bold red]does not fit[/]"
        out.print(f"{human_bytes(total)} of {place} needed, {human_bytes(max(0, there))} free: {fits}")
