"""The real llama.cpp server on the real sample: healthy, the pains of real life, nothing left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from chat_templates import load_source
from checkpoint import Checkpoint
from commands.conversation import command
from deploy import HealthReport, ServeRequest, check_health, plan_serving
from deploy.chat import Chat
from deploy.leash import descendants
from deploy.ports import is_open
from errors import CheckFailed, EngineFailed
from tests.deploy.pains import ALPACA, LLAMA3, VICUNA, renamed_turn_end, variant
from tests.deploy.serving import Recorder, port_of, serve

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this module's own, removed at the end: a GGUF file has 150 MB."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTSIDE_CACHE", str(directory))
        yield directory
    shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that never stop cost the whole budget: the healthy one needs 33 tokens."""
    monkeypatch.setattr("deploy.stopping.BUDGET", 48)


def test_the_sample_is_healthy_and_chats(sample: Path, tmp_path: Path) -> None:
    replies: list[str] = []

    def talk(pid: int) -> None:
        url = f"http://127.0.0.1:{port_of(pid)}"
        chat = Chat(url, api_key="secret", temperature=0, max_tokens=40)
        replies.extend("".join(chat.say(text)) for text in ("Hi!", "Thank you!"))
        assert len(chat.messages) == 4
        assert chat.last is not None
        assert (chat.last.finish_reason, chat.last.tokens_per_second is not None) == ("stop", True)
        _steer(chat, tmp_path)
        with pytest.raises(CheckFailed, match="does not answer"):
            "".join(Chat(url, model=chat.model).say("Hi!"))
        assert "wants an API key" in check_health(url)["models"].detail

    view = Recorder(talk)
    serve("llamacpp", sample, view)
    assert view.report is not None
    assert [rung.ok for rung in view.report.rungs] == [True] * 7
    assert view.told == ["starting", "ready", "stopping"]
    assert all(replies)


def _steer(chat: Chat, tmp_path: Path) -> None:
    """The lines that begin with a slash."""
    saved = tmp_path / "chats" / "one.json"
    assert "Saved" in command(chat, f"/save {saved}")
    assert json.loads(saved.read_text()) == {"model": chat.model, "messages": chat.messages}
    command(chat, "/system Answer in one word.")
    "".join(chat.say("Hi!"))
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant"]
    command(chat, "/reset")
    assert [message["content"] for message in chat.messages] == ["Answer in one word."]
    command(chat, "/system")
    assert chat.messages == []
    assert "There is no '/bye' here" in command(chat, "/bye")
    assert "There is no '/save' here" in command(chat, "/save")
    assert "directory" in command(chat, f"/save {tmp_path}")


@pytest.mark.parametrize(
    "template",
    [pytest.param(VICUNA, marks=pytest.mark.engines, id="vicuna"), pytest.param(LLAMA3, id="llama3")],
)
def test_a_wrong_template_fails_at_stop(sample: Path, tmp_path: Path, template: str) -> None:
    """The GGUF file is the sample's; the template comes from --template."""
    (tmp_path / "wrong.jinja").write_text(template)
    gguf = plan_serving(ServeRequest("llamacpp", sample, port=0, runtime="embedded"), execute=True).served
    view = Recorder()
    with pytest.raises(CheckFailed, match="never stops"):
        serve("llamacpp", gguf, view, source=str(tmp_path / "wrong.jinja"))
    assert view.rungs["generate"].ok
    assert view.rungs["stop"].ok is False
    assert "ready" not in view.told


def test_a_wrong_template_in_the_checkpoint_is_found_and_repaired(sample: Path, tmp_path: Path) -> None:
    model = variant(sample, tmp_path / "alpaca", template=ALPACA)
    right = Checkpoint.open(sample)
    reports: list[HealthReport] = []

    def compare(pid: int) -> None:
        url = f"http://127.0.0.1:{port_of(pid)}"
        source = load_source("checkpoint", right)
        reports.append(check_health(url, checkpoint=right, source=source, api_key="secret"))

    view = Recorder(compare)
    serve("llamacpp", model, view, allow=True)
    assert view.rungs["stop"].ok is False
    assert view.rungs["prompt"].ok, "it is served with the wrong template it has"
    assert reports[0]["prompt"].ok is False
    assert "server:   ###·Instruction:⏎" in reports[0]["prompt"].detail

    view = Recorder()
    serve("llamacpp", model, view, source="family:smollm2")
    assert view.report is not None
    assert view.report.ok, view.report.as_json()


@pytest.mark.engines
def test_a_model_that_thinks_only_when_asked_is_not_asked(sample: Path) -> None:
    """llama.cpp turns thinking on for every template that knows it, unless its server is told otherwise."""
    view = Recorder()
    serve("llamacpp", sample, view, source="family:qwen3-nothink", allow=True)
    assert view.rungs["prompt"].ok, view.rungs["prompt"].detail


@pytest.mark.engines
def test_a_turn_end_that_no_file_names_is_repaired(sample: Path, tmp_path: Path) -> None:
    model = renamed_turn_end(sample, tmp_path / "renamed")
    view = Recorder()
    with pytest.raises(CheckFailed, match="never stops"):
        serve("llamacpp", model, view, as_is=True)
    assert [rung.name for rung in view.rungs.values() if rung.ok is False] == ["stop"]

    view = Recorder()
    serve("llamacpp", model, view)
    assert view.report is not None
    assert view.report.ok, view.report.as_json()


def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF and nothing more")
    with pytest.raises(EngineFailed, match="The model file is damaged"):
        serve("llamacpp", tmp_path / "bad.gguf", Recorder())


def test_no_engine_survives_a_killed_supervisor(sample: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import cli; cli.main()"
    options = ["serve", "llamacpp", str(sample), "--runtime", "embedded", "--port", "0", "--json"]
    process = subprocess.Popen([sys.executable, "-c", code, *options], stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            below = descendants(process.pid)
            assert httpx.get(ready["url"] + "/health", trust_env=False).status_code == 200
        finally:
            process.kill()
    assert below
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in below) and time.monotonic() < deadline:
        time.sleep(0.05)
    alive = [pid for pid in below if _state(pid) not in ("", "Z")]
    assert not alive
    assert not is_open("127.0.0.1", int(ready["url"].rpartition(":")[2]))


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
