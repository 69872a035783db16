"""llama.cpp's other two runtimes, for real: llama-server and the server of llama-cpp-python.

PORTSIDE_TEST_LLAMA_CPP_PYTHON names a python with llama-cpp-python; llama-server lies beside it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from chat_templates import load_source
from checkpoint import Checkpoint
from convert import plan_conversion, run_conversion
from deploy import HealthReport, ServeRequest, check_health, plan_serving, serve_in_foreground
from deploy.chat import Chat
from errors import CheckFailed
from tests.deploy.pains import ALPACA, variant
from tests.deploy.serving import Recorder, port_of

PYTHON = os.environ.get("PORTSIDE_TEST_LLAMA_CPP_PYTHON", "")
SERVER = Path(PYTHON).parent / "llama-server"

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not PYTHON, reason="PORTSIDE_TEST_LLAMA_CPP_PYTHON names no python"),
]


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines of the test's own; and variables that would lead llama-cpp-python astray."""
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PORTSIDE_LLAMA_CPP_PYTHON", PYTHON)
    monkeypatch.setenv("PORTSIDE_LLAMA_SERVER", str(SERVER))
    for name, value in (("HOST", "nowhere.invalid"), ("port", "1"), ("N_CTX", "8"), ("API_KEY", "other")):
        monkeypatch.setenv(name, value)


def serve(model: Path, runtime: str, view: Recorder, **options: object) -> None:
    request = ServeRequest("llamacpp", model, runtime=runtime, port=0, api_key="secret", **options)  # type: ignore[arg-type]
    plan = plan_serving(request, execute=True)
    assert "secret" not in " ".join(plan.argv)
    assert serve_in_foreground(plan, view) == 0


@pytest.mark.parametrize("runtime", ["llama-server", "llama-cpp-python"])
def test_the_sample_is_healthy_chats_and_is_compared(sample: Path, tmp_path: Path, runtime: str) -> None:
    right = Checkpoint.open(sample)
    (tmp_path / "alpaca.jinja").write_text(ALPACA)
    replies: list[str] = []
    reports: list[HealthReport] = []

    def talk(pid: int) -> None:
        url = f"http://127.0.0.1:{port_of(pid)}"
        chat = Chat(url + "/v1", api_key="secret", temperature=0, max_tokens=40)
        replies.extend("".join(chat.say(text)) for text in ("Hi!", "Thank you!"))
        refused = check_health(url).rungs
        assert any("wants an API key" in rung.detail for rung in refused)
        alpaca = load_source(str(tmp_path / "alpaca.jinja"), right)
        reports.append(check_health(url, checkpoint=right, source=alpaca, api_key="secret"))

    view = Recorder(talk)
    began = time.monotonic()
    serve(sample, runtime, view)
    assert view.report is not None
    assert [rung.ok for rung in view.report.rungs] == [True] * 7, view.report.as_json()
    assert all(replies)
    assert reports[0]["prompt"].ok is False
    assert [rung.name for rung in reports[0].rungs if rung.ok is False] == ["prompt"]
    told = "tokens in training" if runtime == "llama-cpp-python" else "the prompts differ"
    assert told in reports[0]["prompt"].detail
    assert time.monotonic() - began < 300


@pytest.mark.parametrize("runtime", ["llama-server", "llama-cpp-python"])
def test_a_wrong_template_fails_at_stop(
    sample: Path, tmp_path: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.stopping.BUDGET", 96)  # three times what the healthy model needs
    model = variant(sample, tmp_path / "wrong", template=ALPACA)
    view = Recorder()
    with pytest.raises(CheckFailed, match="never stops"):
        serve(model, runtime, view, as_is=True)
    assert [rung.name for rung in view.rungs.values() if rung.ok is False] == ["stop"]


def test_a_gguf_without_template_is_not_served_as_llama_2(sample: Path, tmp_path: Path) -> None:
    """llama-cpp-python itself falls back to Llama 2's template, and says nothing."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in sample.iterdir():
        if file.name != "chat_template.jinja":
            (bare / file.name).write_bytes(file.read_bytes())
    config = bare / "tokenizer_config.json"
    text = config.read_text()
    config.write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != "chat_template"}))
    plan = plan_conversion(Checkpoint.open(bare), ("q8_0",), tmp_path / "gguf")
    run_conversion(plan)
    view = Recorder()
    with pytest.raises(CheckFailed, match=r"chat_template\.default"):
        serve(plan.files[0].path, "llama-cpp-python", view)
    assert [rung.name for rung in view.rungs.values() if rung.ok is False] == ["generate"]
