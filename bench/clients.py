"""What a client gets from every engine: the official openai client through `portside serve`.

    python bench/clients.py [--engine llamacpp …]

The sample model, on the engines that are installed here: llama.cpp embedded; vLLM's build for CPUs where
PORTSIDE_VLLM names one; LMDeploy's own API server over a stub engine (transformers, one request at a time)
where PORTSIDE_TEST_LMDEPLOY names one; and Ollama's REST protocol over llama.cpp, as no package index has
Ollama. So the speeds of the last two say nothing about LMDeploy and Ollama; what comes back does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from checkpoint.sample import write_sample  # noqa: E402
from tests.engines.conversations import SCENARIOS, Outcome, run  # noqa: E402
from tests.engines.running import ENGINES, installed, serving  # noqa: E402


def _row(engine: str, name: str, outcome: Outcome) -> tuple[str, ...]:
    speed = outcome.tokens_per_second
    first = "" if outcome.first is None else f"{1000 * outcome.first:.0f}"
    return (
        engine,
        name,
        outcome.what,
        first,
        f"{outcome.seconds:.2f}",
        "" if speed is None else f"{speed:.1f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", action="append", choices=ENGINES)
    engines = parser.parse_args().engine or [engine for engine in ENGINES if installed(engine)]
    table = Table("engine", "scenario", "came back", "first piece, ms", "seconds", "tokens/s")
    with tempfile.TemporaryDirectory() as place:
        sample = write_sample(Path(place) / "SmolLM2-135M-Instruct")
        for engine in engines:
            with serving(engine, sample, Path(place) / engine) as server:
                run("chat", server)  # warms up
                for name in SCENARIOS:
                    table.add_row(*_row(engine, name, run(name, server)))
            table.add_section()
    Console(highlight=False, width=110).print(table)


if __name__ == "__main__":
    main()
