"""Deaths are classified from what the engines really print."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from deploy.causes import CAUSES, classify
from deploy.process import ExitStatus

LOGS = [
    tuple(line.split(" | ", 1))
    for line in Path(__file__).with_name("deaths.txt").read_text().splitlines()
    if not line.startswith("#")
]


@pytest.mark.parametrize(("cause", "line"), LOGS)
def test_the_cause_is_read_from_the_log(cause: str, line: str) -> None:
    noise = ["INFO loading", "Engine core initialization failed. See root cause above."]
    found = classify(ExitStatus(code=1), [noise[0], line, noise[1]])
    assert found.cause == cause
    assert found.evidence
    assert line.strip().startswith(found.evidence[:80])


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (ExitStatus(signal=signal.SIGKILL), "killed"),
        (ExitStatus(signal=signal.SIGILL), "crashed"),
        (ExitStatus(code=1), "unknown"),
        (None, "unknown"),
    ],
)
def test_a_silent_death_is_read_from_its_status(status: ExitStatus | None, cause: str) -> None:
    assert classify(status, ["INFO all is well"]).cause == cause


def test_every_cause_says_what_to_try() -> None:
    assert all(cause.sentence.endswith(".") and cause.hint.endswith(".") for cause in CAUSES)
    assert len({cause.name for cause in CAUSES}) == len(CAUSES)
