"""The first user's story on the real vLLM: trained with one template, shipped with another, repaired."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.deploy.serving import Recorder, serve
from tests.e2e.story import merged, training_run

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif("PORTSIDE_VLLM" not in os.environ, reason="PORTSIDE_VLLM names no vLLM"),
]


def test_repaired_it_stops_by_itself_on_vllm(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    model = merged(sample, tmp_path / "merged")
    view = Recorder()
    serve("vllm", model, view, source=training_run(tmp_path / "run"))
    assert view.report is not None
    assert [rung.ok for rung in view.report.rungs] == [True] * 7, view.report.as_json()
