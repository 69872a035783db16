"""The real vLLM on the real sample, in an environment of its own that PORTSIDE_VLLM names.

A server takes 40 seconds to come up on a CPU: what needs none of its own is in test_matrix and test_clients.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import HealthReport, ServeRequest, check_health, plan_serving, serve_in_foreground
from deploy.leash import descendants
from errors import CheckFailed, EngineFailed
from tests.deploy.pains import ALPACA, LLAMA3, VICUNA, renamed_turn_end, variant
from tests.deploy.serving import Recorder, serve
from tests.e2e.story import merged, training_run
from tests.engines.running import Running, meddling

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif("PORTSIDE_VLLM" not in os.environ, reason="PORTSIDE_VLLM names no vLLM"),
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this module's own, removed at the end."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTSIDE_CACHE", str(directory))
        yield directory
    shutil.rmtree(directory)


@pytest.fixture
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that never stop cost the whole budget: three times what the healthy one needs will do."""
    monkeypatch.setattr("deploy.stopping.BUDGET", 96)


@pytest.mark.usefixtures("few_tokens")
def test_a_wrong_template_fails_at_stop(sample: Path, tmp_path: Path) -> None:
    model = variant(sample, tmp_path / "wrong", template=ALPACA)
    view = Recorder()
    with pytest.raises(CheckFailed, match="never stops"):
        serve("vllm", model, view, as_is=True)
    assert [rung.name for rung in view.rungs.values() if rung.ok is False] == ["stop"]


@pytest.mark.usefixtures("few_tokens")
@pytest.mark.parametrize("running", ["vllm"], indirect=True, scope="session")
@pytest.mark.parametrize("template", [VICUNA, LLAMA3], ids=["vicuna", "llama3"])
def test_other_wrong_templates_fail_at_stop(running: Running, template: str) -> None:
    with meddling(running.url, chat_template=template) as url:
        report = check_health(url, api_key=running.key)
    assert [rung.name for rung in report.rungs if rung.ok is False] == ["stop"]
    assert "never stops" in report["stop"].detail


def test_a_training_run_repairs_a_wrong_template_and_workers_never_survive(
    sample: Path, tmp_path: Path
) -> None:
    """When vLLM's API server is killed its engine core and workers live on; the leash ends them."""
    model, source = merged(sample, tmp_path / "merged"), training_run(tmp_path / "run")
    plan = plan_serving(ServeRequest("vllm", model, source=source, port=0), execute=True)
    below: set[int] = set()

    class Killer(Recorder):
        def ready(self) -> None:
            below.update(descendants(self.pid))
            os.kill(self.pid, signal.SIGKILL)

    view = Killer()
    with pytest.raises(EngineFailed, match="killed from outside"):
        serve_in_foreground(plan, view)
    assert view.report is not None
    assert [rung.ok for rung in view.report.rungs] == [True] * 7, view.report.as_json()
    assert below, "vLLM has workers"
    assert not below & descendants(os.getpid())
    assert not [pid for pid in below if Path(f"/proc/{pid}/cmdline").exists() and _alive(pid)]


@pytest.mark.usefixtures("few_tokens")
def test_a_turn_end_that_no_file_names(sample: Path, tmp_path: Path) -> None:
    view = Recorder()
    with pytest.raises(CheckFailed, match="never stops"):
        serve("vllm", renamed_turn_end(sample, tmp_path / "renamed"), view, as_is=True)
    assert [rung.name for rung in view.rungs.values() if rung.ok is False] == ["stop"]


def test_a_turn_end_that_no_file_names_is_repaired(sample: Path, tmp_path: Path) -> None:
    """Then its engine core dies under a living API server: the server is not healthy any more, or gone."""
    plan = plan_serving(
        ServeRequest("vllm", renamed_turn_end(sample, tmp_path / "renamed"), port=0), execute=True
    )
    after: list[HealthReport] = []

    class Killer(Recorder):
        def ready(self) -> None:
            for pid in descendants(self.pid):
                os.kill(pid, signal.SIGKILL)
            after.append(check_health(plan.url))

    view = Killer()
    with pytest.raises(EngineFailed, match="ended while it was serving"):
        serve_in_foreground(plan, view)
    assert view.report is not None
    assert view.report.ok, view.report.as_json()
    assert not after[0].ok, after[0].as_json()


def test_a_flag_that_vllm_does_not_know(sample: Path) -> None:
    request = ServeRequest("vllm", sample, port=0, engine_args=("--no-such-flag",))
    plan = plan_serving(request, execute=True)
    began = time.monotonic()
    with pytest.raises(EngineFailed, match="does not know one of its arguments"):
        serve_in_foreground(plan, Recorder())
    assert time.monotonic() - began < 60


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
