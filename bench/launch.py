"""How soon a server that can answer is reported ready, and a dead one dead.

    python bench/launch.py [--runs 20]

The fake engine of the tests writes into its log the moment (CLOCK_MONOTONIC, the same for all processes) from
which it can answer, or at which it ends. `ready` is the supervisor's report after all rungs of the ladder,
`dead` the moment it raises, with the engine's group cleared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from deploy import serve_in_foreground  # noqa: E402
from deploy.ports import free_port  # noqa: E402
from errors import EngineFailed  # noqa: E402
from tests.deploy.serving import Recorder  # noqa: E402
from tests.deploy.supervised import fake_plan  # noqa: E402

CASES = (
    ("ready: /health 503 while loading (llama.cpp)", 0.3, ("--loading", "0.8")),
    ("ready: port closed while loading (vLLM)", 0.3, ("--loading", "0.8", "--late")),
    ("dead: while loading", 0.5, ("--no-listen", "--die-after", "0.8")),
    ("dead: first request kills it", 0.5, ("--die-on-chat",)),
    ("dead: while serving", 0.5, ("--die-after", "1.5")),
)
"""Name, limit in seconds, flags of the fake engine."""


class Clock(Recorder):
    """Notes when ready was reported; a server that is meant to die while serving is let run."""

    def __init__(self, dies: bool) -> None:
        super().__init__()
        self.dies = dies
        self.moment = 0.0

    def ready(self) -> None:
        self.moment = time.monotonic()
        if not self.dies:
            super().ready()


def lag(flags: tuple[str, ...], dies: bool) -> float:
    """Return the seconds from what the fake engine says happened to the supervisor's report of it."""
    with tempfile.TemporaryDirectory() as directory:
        plan, clock = fake_plan(Path(directory), free_port(), *flags), Clock(dies)
        try:
            serve_in_foreground(plan, clock)
            seen = clock.moment
        except EngineFailed:
            seen = time.monotonic()
        word = "ends at " if dies else "can answer from "
        told = [line for line in plan.log.read_text().splitlines() if line.startswith(word)]
        return seen - float(told[-1].removeprefix(word))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    table = Table("case", "median", "worst", "limit", title=f"{runs} runs each, milliseconds")
    good = True
    for name, limit, flags in CASES:
        lags = [lag(flags, name.startswith("dead")) for _ in range(runs)]
        good = good and max(lags) <= limit
        figures = (statistics.median(lags), max(lags), limit)
        table.add_row(name, *(f"{1000 * figure:.0f}" for figure in figures))
    Console(highlight=False).print(table)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
