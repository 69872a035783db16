"""Every failure of the matrix, on every engine: its rung fails, in its words, and nothing is left of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chat_templates import load_source
from checkpoint import Checkpoint
from deploy import check_health
from deploy.client import Client, identify
from deploy.report import RUNGS
from deploy.traffic import read_traffic
from tests.deploy.pains import ALPACA
from tests.engines.matrix import FAILURES, MATRIX, Cannot, Fault, Shown, as_markdown
from tests.engines.running import ENGINES, KEY, Running

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The healthy sample needs 33 tokens for an answer."""
    monkeypatch.setattr("deploy.stopping.BUDGET", 48)
    monkeypatch.setattr("deploy.ladder._HEALTH_TIMEOUT", 2.0)


@pytest.mark.engines
def test_the_sample_is_healthy(running: Running, sample: Path) -> None:
    checkpoint = Checkpoint.open(sample)
    source = load_source("checkpoint", checkpoint)
    report = check_health(running.url, checkpoint=checkpoint, source=source, api_key=running.key)
    assert report.ok, report.as_json()
    assert report["prompt"].ok
    if running.key:
        assert "wants an API key" in check_health(running.url)["models"].detail
        command = Path(f"/proc/{running.pid}/cmdline").read_text()
        assert KEY not in command.split("\0")


@pytest.mark.engines
def test_an_engine_tells_of_its_work(running: Running) -> None:
    """`health --watch` takes a server for busy, not for dead, by what it tells."""
    with Client(running.url, api_key=running.key) as client:
        kind = identify(client.get("/v1/models"))
        before = read_traffic(client, kind)
        body = {"model": running.model, "messages": [{"role": "user", "content": "Hi!"}], "max_tokens": 4}
        assert client.post("/v1/chat/completions", body, timeout=120).ok
        after = read_traffic(client, kind)
    assert before.source is not None
    assert after.running in (0, None)
    if running.engine == "lmdeploy":  # its stub engine reports no tokens, so that they are not counted
        assert before.count is not None
    else:
        assert after.moved_since(before), (before, after)
    assert not after.restarted_since(before)


CASES = [
    (engine, name) for engine in ENGINES for name, row in MATRIX.items() if isinstance(row[engine], Fault)
]


@pytest.mark.engines
@pytest.mark.parametrize(("running", "name"), CASES, indirect=["running"])
def test_a_failure_has_its_rung(running: Running, sample: Path, tmp_path: Path, name: str) -> None:
    failure, cell = FAILURES[name], MATRIX[name][running.engine]
    assert isinstance(cell, Fault)
    patience = 2.0 if name == "engine hangs" else 60.0
    checkpoint = source = None
    if name == "another prompt":
        checkpoint = Checkpoint.open(sample)
        (tmp_path / "alpaca.jinja").write_text(ALPACA)
        source = load_source(str(tmp_path / "alpaca.jinja"), checkpoint)
    with cell.make(running) as url:
        report = check_health(
            url, checkpoint=checkpoint, source=source, api_key=running.key, token_seconds=patience
        )
    failed = [rung.name for rung in report.rungs if rung.ok is False]
    assert failed == [failure.rung], report.as_json()
    assert (cell.words or failure.words) in report[failure.rung].detail
    assert report[failure.rung].hint, "it says what to try"


@pytest.mark.engines
def test_a_failure_leaves_nothing(running: Running) -> None:
    """After all of them the server is as it was."""
    report = check_health(running.url, api_key=running.key)
    assert report.ok, report.as_json()


def test_the_matrix_is_complete() -> None:
    assert set(MATRIX) == set(FAILURES)
    for name, row in MATRIX.items():
        assert set(row) == set(ENGINES), name
        for cell in row.values():
            if isinstance(cell, Shown):
                file, _, test = cell.test.partition("::")
                assert f"def {test}(" in (TESTS / file).read_text(), cell.test
            if isinstance(cell, Cannot):
                assert cell.reason


def test_the_documents_show_the_matrix() -> None:
    page = (TESTS.parent / "docs" / "health.md").read_text()
    assert as_markdown() in page, "python -m tests.engines.matrix prints what belongs there"
    assert re.findall(r"(?m)^\| `(\w+)` \| [^|]*\|$", page) == list(RUNGS)


def test_every_failure_has_words_of_its_own() -> None:
    """The wrong template and the wrong stop ids look alike from outside: the hint names both."""
    told = [(failure.rung, failure.words) for failure in FAILURES.values()]
    assert len(set(told)) == len(told) - 2
