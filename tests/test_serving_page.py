"""docs/serving.md: its commands can be typed, and it names what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cli import main
from deploy.client import Client
from deploy.ladder import Target
from deploy.metrics import HealthCollector
from deploy.report import RUNGS
from deploy.traffic import Traffic
from deploy.watch import SERVING, STATES, Watch

PAGE = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
COMMANDS = [words for line in re.findall(r"(?m)^    (portside .*)$", PAGE) if (words := shlex.split(line))]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_its_commands_are_understood(words: list[str]) -> None:
    """Parsed, not run: click raises for a verb, an option or a value that there is not."""
    _, verb, *arguments = words[: words.index(">")] if ">" in words else words
    with main.commands[verb].make_context(verb, arguments):
        pass


def test_it_names_every_rung_state_and_metric() -> None:
    assert len(COMMANDS) >= 8
    assert re.findall(r"(?m)^\| `(\w+)` \| [^|]*\|$", PAGE.partition("## Down")[0]) == list(RUNGS)
    states = re.findall(r"(?m)^\| `(\w+)` \| [^|]* \| (yes|no) \|$", PAGE)
    assert states == [(state, "yes" if state in SERVING else "no") for state in STATES]
    with Client("127.0.0.1:1") as client:
        watch = Watch(client, Target(), tell=lambda change: None, last_success=1.0, traffic=Traffic("/", 1))
        found = {metric.name for metric in HealthCollector(watch).collect()}
    named = set(re.findall(r"`(portside_health_\w+)", PAGE))
    assert {name.removesuffix("_total") for name in named} == found
