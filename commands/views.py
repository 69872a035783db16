"""What several measuring commands show: a bar that names the step it is at, and a plain table."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Step", "new_table", "steps"]

Step = Callable[[str, int, int], None]
"""Called with (what is being done, parts done, parts in all)."""


@contextlib.contextmanager
def steps() -> Iterator[Step]:
    """Show a bar on stderr whose title changes; nothing where stderr is not a terminal."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from console import err

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("Preparing", total=None)

        def step(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield step


def new_table(*columns: str) -> Table:
    """Return a table without lines; every column but the first is aligned to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table
