"""vLLM over several processes: each holds a part of every layer, and the prompt is still the training one.

Three, because the sample has 9 attention heads. Ray cannot be had here: vLLM's build for CPUs refuses it
("current platform cpu does not support ray").
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy import ServeRequest, plan_serving, serve_in_foreground
from deploy.leash import descendants
from tests.deploy.serving import Recorder

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(600),
    pytest.mark.skipif("PORTSIDE_VLLM" not in os.environ, reason="PORTSIDE_VLLM names no vLLM"),
]


def test_three_processes_answer_as_one(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1|1")
    request = ServeRequest("vllm", sample, port=0, engine_args=("--tensor-parallel-size", "3"))
    workers: list[int] = []
    view = Recorder(lambda pid: workers.extend(descendants(pid)))
    assert serve_in_foreground(plan_serving(request, execute=True), view) == 0
    assert view.report is not None
    assert view.report.ok, view.report.as_json()
    assert view.report["prompt"].ok
    assert len(workers) >= 3
    assert not descendants(os.getpid()) & set(workers)
