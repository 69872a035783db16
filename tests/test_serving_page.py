"""docs/serving.md names every state and metric that there is."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.client import Client
from deploy.ladder import Target
from deploy.metrics import HealthCollector
from deploy.traffic import Traffic
from deploy.watch import SERVING, STATES, Watch

PAGE = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")


def test_it_names_every_state_and_metric() -> None:
    states = re.findall(r"(?m)^\| `(\w+)` \| [^|]* \| (yes|no) \|$", PAGE)
    assert states == [(state, "yes" if state in SERVING else "no") for state in STATES]
    with Client("127.0.0.1:1") as client:
        watch = Watch(client, Target(), tell=lambda change: None, last_success=1.0, traffic=Traffic("/", 1))
        found = {metric.name for metric in HealthCollector(watch).collect()}
    named = set(re.findall(r"`(portside_health_\w+)", PAGE))
    assert {name.removesuffix("_total") for name in named} == found
