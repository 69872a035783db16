"""The official openai client against every engine, as `portside serve` runs it on the sample."""

from __future__ import annotations

import pytest

from tests.engines.conversations import CONCURRENT, SCENARIOS, run
from tests.engines.running import Running

pytestmark = pytest.mark.engines

ALL = f"{CONCURRENT} at once"
USUAL = {
    "chat": "stop",
    "streaming": "stop in several pieces",
    "several turns": "stop",
    "tools": "HTTP 400",  # the sample's template has no place for them
    "wrong model": "HTTP 404",
    "wrong key": "HTTP 401",
    "too long a prompt": "HTTP 400",
    ALL: f"{CONCURRENT} answered",
}
"""Scenario -> what comes back."""
OTHERWISE = {
    # the sample's template has no place for tools, so it answers in words, and many of them
    ("llamacpp", "tools"): "length",
    # serves one model, whatever it is called
    ("llamacpp", "wrong model"): "stop",
    # knows no keys
    ("ollama", "wrong key"): "stop",
    # cuts what does not fit, and tells nobody
    ("ollama", "too long a prompt"): "length",
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_a_client_gets(running: Running, name: str) -> None:
    outcome = run(name, running)
    assert outcome.what == OTHERWISE.get((running.engine, name), USUAL[name]), outcome
    if name in ("chat", "streaming", "several turns"):
        assert outcome.text.strip()
        assert outcome.tokens > 1
    if name == "streaming":
        assert outcome.first is not None
        assert outcome.first < outcome.seconds
    if name == "chat":
        assert outcome.text == run("streaming", running).text, "streamed or not, the answer is the same"
