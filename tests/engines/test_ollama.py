"""`serve ollama` on the real sample: the protocol, the template and the model are real, the program is not.

See `fake_ollama`: no package registry has Ollama's own program.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy import ServeRequest, check_health, plan_serving, serve_in_foreground
from deploy.engines.base import ServePlan
from deploy.ports import free_port, is_open
from errors import CheckFailed
from tests.deploy.pains import ALPACA, renamed_turn_end, variant
from tests.deploy.serving import Recorder
from tests.engines.running import environment_of

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache, a store of models and an `ollama` of this module's own."""
    root = tmp_path_factory.mktemp("ollama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTSIDE_CACHE", str(root / "cache"))
        for name, value in environment_of("ollama", root).items():
            patch.setenv(name, value)
        patch.delenv("OLLAMA_HOST", raising=False)
        patch.delenv("FAKE_OLLAMA", raising=False)
        yield
    shutil.rmtree(root)


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that never stop cost the whole budget: the healthy one needs 33 tokens."""
    monkeypatch.setattr("deploy.stopping.BUDGET", 48)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """An Ollama that somebody else has started, at OLLAMA_HOST."""
    port = free_port()
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{port}")
    process = subprocess.Popen([os.environ["PORTSIDE_OLLAMA"], "serve"])
    try:
        deadline = time.monotonic() + 30
        while not is_open("127.0.0.1", port):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait()


def planned(model: Path, **options: object) -> ServePlan:
    request = ServeRequest("ollama", model, **options)  # type: ignore[arg-type]
    return plan_serving(request, execute=True)


def failed(view: Recorder) -> list[str]:
    return [rung.name for rung in view.rungs.values() if rung.ok is False]


def kept(plan: ServePlan) -> dict[str, object]:
    """Return the models in memory, each with how long it was asked to be kept."""
    models = httpx.get(f"{plan.url}/api/ps").json()["models"]
    return {model["name"]: model["keep_alive"] for model in models}


def test_a_server_is_started_and_the_sample_is_healthy(sample: Path) -> None:
    shown: dict[str, object] = {}
    plan = planned(sample, port=0)

    def look(pid: int) -> None:
        post = {"model": plan.name}
        shown.update(httpx.post(f"{plan.url}/api/show", json=post).json())
        shown["kept"] = kept(plan)

    view = Recorder(look)
    assert serve_in_foreground(plan, view) == 0
    assert {rung.name: rung.ok for rung in view.rungs.values()} == {
        **dict.fromkeys(("process", "port", "models", "generate", "stop", "prompt"), True),
        "health": None,
    }
    assert "MiB sent), Ollama 0.24.0 uses the TEMPLATE" in view.rungs["models"].detail
    assert "loaded, and kept" in view.rungs["generate"].detail
    assert shown["parameters"]["stop"] == ["<|im_end|>"]  # type: ignore[index]
    assert shown["kept"] == {f"{plan.name}:latest": -1}
    assert not is_open(plan.host, plan.port), "the server was ours to end"


def test_a_running_server_is_used_and_left_running(sample: Path, running: subprocess.Popen[bytes]) -> None:
    plan = planned(sample)
    assert plan.attached
    assert plan.as_json()["attached"] is True
    view = Recorder()
    assert serve_in_foreground(plan, view) == 0
    assert failed(view) == []
    assert view.rungs["process"].ok is None
    assert running.poll() is None
    tags = httpx.get(f"{plan.url}/api/tags").json()["models"]
    assert [tag["name"] for tag in tags] == [f"{plan.name}:latest"], "`ollama run NAME` finds it"
    assert kept(plan) == {f"{plan.name}:latest": "5m"}, "it may be unloaded again"

    again = Recorder()
    assert serve_in_foreground(planned(sample), again) == 0
    assert "its GGUF file was there" in again.rungs["models"].detail


@pytest.mark.parametrize(
    ("fault", "rung", "words"),
    [
        ("drop-template", "stop", "never stops"),
        ("rename", "models", "the server lists 'something-else:latest'"),
        ("no-load", "generate", "does not load it: HTTP 500: llama runner process has terminated"),
        ("refuse", "models", r"did not create the model .*: unsupported architecture"),
    ],
)
def test_every_failure_has_its_rung(
    sample: Path, monkeypatch: pytest.MonkeyPatch, fault: str, rung: str, words: str
) -> None:
    monkeypatch.setenv("FAKE_OLLAMA", fault)
    view = Recorder()
    plan = planned(sample, port=0)
    with pytest.raises(CheckFailed, match=rf"(?s)rung {rung}: .*{words}"):
        serve_in_foreground(plan, view)
    assert failed(view)[0] == rung
    assert not is_open(plan.host, plan.port)
    if fault == "drop-template":
        assert failed(view) == ["stop", "prompt"]


def test_a_blob_that_arrives_damaged_is_refused(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_OLLAMA", "corrupt")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    with pytest.raises(CheckFailed, match=r"rung models: Ollama did not take .*digest mismatch"):
        serve_in_foreground(planned(sample, port=0), Recorder())


def test_a_server_that_sleeps_fails_at_health(sample: Path, running: subprocess.Popen[bytes]) -> None:
    """A stopped process still accepts connections: the kernel does."""
    plan = planned(sample)
    assert plan.attached
    running.send_signal(signal.SIGSTOP)
    report = check_health(plan.url)
    assert report["port"].ok
    assert report["health"].ok is False
    assert "no answer within" in report["health"].detail


def test_a_wrong_stop_is_found_and_repaired(sample: Path, tmp_path: Path) -> None:
    model = renamed_turn_end(sample, tmp_path / "renamed")
    view = Recorder()
    with pytest.raises(CheckFailed, match=r"rung stop: .*never stops"):
        serve_in_foreground(planned(model, port=0, as_is=True), view)

    view = Recorder()
    assert serve_in_foreground(planned(model, port=0), view) == 0
    assert failed(view) == []


def test_a_wrong_template_is_found(sample: Path, tmp_path: Path) -> None:
    model = variant(sample, tmp_path / "alpaca", template=ALPACA)
    view = Recorder()
    with pytest.raises(CheckFailed, match=r"rung stop: .*never stops"):
        serve_in_foreground(planned(model, port=0), view)
    assert failed(view) == ["stop"], "it is served with the wrong template it has"


def test_the_command_line_shows_what_it_would_do(sample: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import cli; cli.main()"
    words = ["serve", "ollama", str(sample), "--port", "0", "--dry-run", "--json"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    plan = json.loads(done.stdout)
    assert plan["argv"] == [os.environ["PORTSIDE_OLLAMA"], "serve"]
    assert plan["env"]["OLLAMA_HOST"] == f"127.0.0.1:{plan['port']}"
    assert [step["rung"] for step in plan["steps"]] == ["models", "generate"]
    assert plan["steps"][0]["request"]["parameters"]["stop"] == ["<|im_end|>"]
