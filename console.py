"""What results look like on a terminal.

Results go to stdout; progress, warnings and errors go to stderr, so that stdout can be piped. Knows rich and
the shapes the rooms return. Does not know how any of them came about.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from errors import EngineFailed, PortsideError

if TYPE_CHECKING:
    from chat_templates import Difference, Family, Inspection, Matches, Proof
    from checkpoint import Finding
    from convert import ConversionPlan, ConvertedFile, GgufCheck
    from deploy import EngineFound, HealthReport, Rung, ServePlan
    from deploy.bundle import Bundle

Advance = Callable[[int, int], None]
"""Progress: (bytes done, bytes in all)."""

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)

_LISTED = 8
"""Problems of one kind that are printed."""

_SEVERITY = {"error": "[bold red]error[/]", "warning": "[yellow]warning[/]", "info": "[cyan]info[/]"}


def print_line(text: str) -> None:
    out.print(escape(text), soft_wrap=True)


def print_json_line(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line of stdout, at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_warning(text: str) -> None:
    err.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)


def print_error(error: PortsideError) -> None:
    """One paragraph: what is wrong and where, then what to try."""
    err.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True)
    if error.hint:
        err.print(f"[bold]try:[/] {escape(error.hint)}", soft_wrap=True)


def human_bytes(count: float) -> str:
    """Return a size in decimal units, as disks are sold: 1234567 -> `1.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


@contextlib.contextmanager
def progress(title: str) -> Iterator[Advance]:
    """Show a bar with bytes, speed and the time left on stderr; nothing where stderr is not a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(title, total=None, start=False)

        def advance(done: int, total: int) -> None:
            bar.start_task(task)
            bar.update(task, completed=done, total=total)

        yield advance


def _facts(rows: Mapping[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for key, value in rows.items():
        grid.add_row(key, escape(value))
    return grid


def show_facts(rows: Mapping[str, str]) -> None:
    out.print(_facts(rows))


def show_warnings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.severity != "info":
            print_warning(f"{finding.message} {finding.fix}")


def show_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        out.print(f"{_SEVERITY[finding.severity]} [bold]{finding.code}[/]: {escape(finding.message)}")
        out.print(f"  [dim]fix:[/] {escape(finding.fix)}")


def show_inspection(inspection: Inspection) -> None:
    out.print(_facts(inspection.rows()))
    if inspection.findings:
        out.print()
        show_findings(inspection.findings)
    else:
        out.print("\n[green]Nothing is wrong with it.[/]")


def show_proof(
    proof: Proof, findings: Sequence[Finding], files: Sequence[Path], mismatch: Difference | None = None
) -> None:
    from chat_templates.show import print_difference, print_proof

    show_findings(findings)
    if mismatch is not None:
        print_difference(mismatch, out, ("training", "its own"))
        out.print()
    print_proof(proof, out)
    show_findings(proof.stops.findings if proof.stops else ())
    for path in files:
        print_line(f"Wrote {path}")


def show_families(families: Sequence[Family], trainers: Mapping[str, Sequence[str]]) -> None:
    from chat_templates.show import print_families, print_trainers

    print_families(families, out)
    print_trainers(trainers, out)


def show_matches(matches: Matches) -> None:
    from chat_templates.show import print_matches

    print_matches(matches, out)


def show_conversion_plan(plan: ConversionPlan) -> None:
    table = Table(
        "tensor",
        "shape",
        *(target.type for target in plan.files),
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    for tensors in zip(*(target.tensors for target in plan.files), strict=True):
        shape = " × ".join(map(str, tensors[0].shape))
        table.add_row(tensors[0].name, shape, *(tensor.type.name.lower() for tensor in tensors))
    out.print(table)
    for target in plan.files:
        print_line(f"{target.path}  {human_bytes(target.bytes)}")


def show_files(files: Sequence[ConvertedFile]) -> None:
    table = Table("file", "type", "size", "sha256", box=None, pad_edge=False, header_style="dim")
    for file in files:
        table.add_row(escape(str(file.path)), file.type, human_bytes(file.bytes), file.sha256[:16] + "…")
    out.print(table)


def show_gguf_check(result: GgufCheck) -> None:
    for check in result.checks:
        mark = {True: "[green]✓[/]", False: "[bold red]✗[/]", None: "[dim]–[/]"}[check.ok]
        out.print(f"{mark} {check.name:<10} {escape(check.detail)}", soft_wrap=True)
        for problem in check.problems[1:_LISTED]:
            out.print(f"{'':13}{escape(problem)}", soft_wrap=True)
        if len(check.problems) > _LISTED:
            out.print(f"{'':13}and {len(check.problems) - _LISTED} more (all of them with --json)")


def show_bundle(bundle: Bundle) -> None:
    table = Table("file", "size", "what for", box=None, pad_edge=False, header_style="dim")
    for entry in bundle.entries:
        table.add_row(escape(entry.name), human_bytes(entry.bytes), escape(entry.purpose))
    out.print(table)
    for left_out in bundle.left_out:
        out.print(f"[yellow]left out[/] {escape(left_out)}")
    print_line(f"Wrote {bundle.directory}")


def show_engines(found: Sequence[EngineFound]) -> None:
    table = Table("engine", "runtime", "version", "where", box=None, pad_edge=False, header_style="dim")
    for engine in found:
        where = escape(engine.path or engine.install)
        mark = "[green]✓[/]" if engine.path else "[dim]–[/]"
        table.add_row(f"{mark} {engine.name}", engine.runtime, engine.version or "", where)
    out.print(table)


def show_serve_plan(plan: ServePlan, *, as_json: bool) -> None:
    if as_json:
        out.print_json(json.dumps(plan.as_json()))
        return
    rows = plan.rows()
    width = max(map(len, rows))
    for key, value in rows.items():  # in one line each, so that the command can be copied
        out.print(f"[dim]{key:<{width}}[/]  {escape(value)}", soft_wrap=True)


def show_rung(rung: Rung, console: Console = out) -> None:
    mark = {True: "[green]✓[/]", False: "[bold red]✗[/]", None: "[dim]–[/]"}[rung.ok]
    console.print(f"{mark} {rung.name:<9}[dim]{rung.seconds:6.2f} s[/]  {escape(rung.detail)}")


def show_health(report: HealthReport) -> None:
    for rung in report.rungs:
        show_rung(rung)
        if rung.hint:
            out.print(f"  [bold]try:[/] {escape(rung.hint)}")
    _show_verdict(report, out)


def _show_verdict(report: HealthReport, console: Console) -> None:
    passed = sum(rung.ok is True for rung in report.rungs)
    colour = "green" if report.ok else "red"
    console.print(f"[bold {colour}]health {passed}/{len(report.rungs)}[/]")


def show_waiting(seconds: float, last_line: str) -> None:
    err.print(f"[dim]  still loading after {seconds:.0f} s  {escape(last_line[:80])}[/]", soft_wrap=True)


class ServeView:
    """Tells a person, or with `as_json` a script, how a server comes up; deploy calls it."""

    def __init__(self, plan: ServePlan, *, as_json: bool) -> None:
        self.plan = plan
        self.as_json = as_json
        self.console = err if as_json else out

    def starting(self) -> None:
        if self.plan.attached:
            self.console.print(f"Using the {self.plan.engine} server at {self.plan.url}")
        else:
            log = f"[dim](log: {self.plan.log})[/]"
            self.console.print(f"Starting {self.plan.engine} on {self.plan.url} {log}")

    def waiting(self, seconds: float, last_line: str) -> None:
        show_waiting(seconds, last_line)

    def rung(self, rung: Rung) -> None:
        show_rung(rung, self.console)

    def checked(self, report: HealthReport, pid: int | None) -> None:
        _show_verdict(report, self.console)
        if self.as_json:
            found = {"url": self.plan.url, "name": self.plan.name, "engine": self.plan.engine, "pid": pid}
            print_json_line({**report.as_json(), **found})

    def ready(self) -> None:
        if self.as_json:
            return
        from deploy.snippet import client_snippet

        out.print(
            f"\nServing [bold]{escape(self.plan.name)}[/] at [bold]{self.plan.url}/v1[/]. Ctrl-C stops it.\n"
        )
        out.print(escape(client_snippet(self.plan)), style="cyan", soft_wrap=True)

    def restarting(self, seconds: float, error: EngineFailed) -> None:
        print_error(error)
        self.console.print(f"Starting it again in {seconds:.0f} s.")
        if self.as_json:
            print_json_line({"ok": False, "restarting_in": seconds})

    def stopping(self) -> None:
        self.console.print("Stopping …")


def pass_on(text: str) -> None:
    """Show what another command of ours tells, as it is."""
    sys.stderr.write(text)
    sys.stderr.flush()
