"""The ladder against a fake server with one fault at a time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from chat_templates import ChatTemplate, Markup, TemplateSource
from deploy.client import Client, base_url, behind_proxy
from deploy.health import check_health
from deploy.ladder import Ladder, Target
from deploy.ports import free_port
from deploy.process import EngineProcess
from deploy.report import RUNGS, HealthReport, Rung
from deploy.stopping import Answer, judge, markers_of
from errors import CheckFailed, EngineFailed, Interrupted, UsageError

FAKE = Path(__file__).with_name("fake_engine.py")
Start = Callable[..., str]

CHATML = ChatTemplate(
    name="chatml",
    bos="<s>",
    system=Markup("<|im_start|>system\n", "<|im_end|>\n"),
    user=Markup("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=Markup("<|im_start|>assistant\n", "<|im_end|>\n"),
    generation_prompt="<|im_start|>assistant\n",
    stop=("<|im_end|>",),
)
TRAINING = TemplateSource(
    spec="chatml",
    description="",
    origin="form",
    jinja="",
    form=CHATML,
    bos_token="<s>",
    eos_token="<|im_end|>",
)


def fake(tmp_path: Path, port: int, *flags: str) -> EngineProcess:
    return EngineProcess(
        [sys.executable, str(FAKE), "--port", str(port), *flags], log=tmp_path / "engine.log", grace=1
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a fake server and returns its URL."""
    engines: list[EngineProcess] = []

    def start(*flags: str) -> str:
        port = free_port()
        engine = fake(tmp_path, port, *flags)
        engines.append(engine)
        engine.start()
        return f"http://127.0.0.1:{port}"

    yield start
    for engine in engines:
        engine.stop()


def oks(report: HealthReport) -> dict[str, bool | None]:
    assert tuple(rung.name for rung in report.rungs) == RUNGS
    return {rung.name: rung.ok for rung in report.rungs}


def test_a_healthy_server(start: Start) -> None:
    seen: list[Rung] = []
    report = check_health(start(), wait=5, on_rung=seen.append)
    assert report.ok
    assert oks(report) == dict.fromkeys(RUNGS, True) | {"process": None, "prompt": None}
    assert tuple(seen) == report.rungs
    assert set(report.as_json()["rungs"][0]) == {"name", "ok", "seconds", "detail"}
    report.raise_if_failed()


def test_the_url_may_end_in_v1(start: Start) -> None:
    assert check_health(start() + "/v1/", wait=5).ok


@pytest.mark.parametrize(
    ("flags", "rung", "words"),
    [
        (["--health-status", "500"], "health", "expected 200, got HTTP 500"),
        (["--loading", "60"], "health", "still loading"),
        (["--chat-status", "400"], "generate", "no chat template is defined"),
        (["--api-key", "k"], "models", "wants an API key"),
        (["--never-stops"], "stop", "never stops: 3 of 3"),
        (["--text", "Sure.<|im_end|>"], "stop", "leaks the template's markup '<|im_end|>' in 3 of 3"),
        (["--text", "assistant\nHello"], "stop", "leaks"),
        (["--text", " "], "stop", "empty: 3 of 3"),
    ],
)
def test_one_fault_fails_one_rung(start: Start, flags: list[str], rung: str, words: str) -> None:
    url = start(*flags)
    report = check_health(url, wait=0 if "--loading" in flags else 5)
    if report["port"].ok is False:  # it was asked before it listened
        report = check_health(url, wait=1)
    assert not report.ok
    assert oks(report)[rung] is False
    assert words in report[rung].detail
    assert all(r.ok is not False for r in report.rungs if r.name != rung) or rung == "health"
    with pytest.raises(CheckFailed, match=rung):
        report.raise_if_failed()


def test_a_server_without_health_is_not_blamed(start: Start) -> None:
    report = check_health(start("--health-status", "404"), wait=5)
    assert report.ok
    assert report["health"].ok is None


def test_the_wrong_model(start: Start) -> None:
    report = check_health(start("--name", "other"), model="mine", wait=5)
    assert report["models"].ok is False
    assert "expected the model 'mine', the server lists 'other'" in report["models"].detail
    assert report["generate"].detail == "not tried: models failed"


def test_keys(start: Start) -> None:
    url = start("--api-key", "right")
    assert check_health(url, api_key="right", wait=5).ok
    report = check_health(url, api_key="wrong")
    assert "refuses the API key it was given" in report["models"].detail
    assert "PORTSIDE_API_KEY" in (report["models"].hint or "")


def test_a_token_may_take_as_long_as_one_says(start: Start) -> None:
    url = start("--slow-chat", "0.5")
    assert check_health(url, wait=5)["generate"].ok
    report = check_health(url, token_seconds=0.2)
    assert report["generate"].ok is False
    assert report["generate"].seconds < 0.5


def test_nobody_is_there() -> None:
    report = check_health(f"127.0.0.1:{free_port()}")
    assert oks(report) == dict.fromkeys(RUNGS) | {"port": False}
    assert not report.ok


def test_a_thinking_model_gets_more_tokens(start: Start) -> None:
    assert check_health(start("--thinks"), wait=5)["stop"].ok


@pytest.mark.parametrize("kind", ["vllm", "old-vllm", "llamacpp", "ollama"])
def test_prompts_equal_to_training(start: Start, kind: str) -> None:
    report = check_health(start("--kind", kind), source=TRAINING, wait=5)
    assert report["prompt"].ok, report["prompt"].detail
    assert report.server == {"old-vllm": "vllm", "llamacpp": "llama.cpp"}.get(kind, kind)


@pytest.mark.parametrize("kind", ["vllm", "old-vllm", "llamacpp", "ollama"])
def test_prompts_that_differ_are_shown(start: Start, kind: str) -> None:
    report = check_health(start("--kind", kind, "--wrong-prompt"), source=TRAINING, wait=5)
    assert report["prompt"].ok is False
    lines = report["prompt"].detail.splitlines()
    assert lines[0] == "the prompts differ (one turn):"
    assert lines[1].removeprefix("    training: ").removeprefix("<s>").startswith("<|im_start|>user⏎What")
    assert lines[2].removeprefix("    server:   ").removeprefix("<s>").startswith("<|im_start|>user·What")
    assert lines[3].index("^") == lines[1].index("⏎")


def test_a_bos_that_the_server_forgets(start: Start) -> None:
    report = check_health(start("--kind", "llamacpp", "--no-bos"), source=TRAINING, wait=5)
    assert report["prompt"].ok is False
    assert "training: <s>" in report["prompt"].detail


def test_a_server_that_does_not_show_its_prompt(start: Start) -> None:
    report = check_health(start(), source=TRAINING, wait=5)
    assert report.ok
    assert report["prompt"].ok is None
    assert "does not show" in report["prompt"].detail


def climb(engine: EngineProcess, port: int, patience: float = 20.0) -> HealthReport:
    from deploy.supervise import guard_of

    with Client(f"http://127.0.0.1:{port}", guard=guard_of(engine)) as client:
        return Ladder(client, Target(model="fake"), process=engine, patience=patience).climb()


@pytest.mark.parametrize(
    "flags", [["--no-listen"], ["--hang-health"], ["--loading", "60"], ["--slow-chat", "60"]]
)
def test_a_death_ends_any_waiting_at_once(tmp_path: Path, flags: list[str]) -> None:
    port = free_port()
    words = ["--print", "torch.OutOfMemoryError: CUDA out of memory."]
    with fake(tmp_path, port, *flags, *words, "--die-after", "0.7", "--exit-code", "3") as engine:
        with pytest.raises(EngineFailed) as caught:
            climb(engine, port)
        told = time.monotonic()
        died = (tmp_path / "engine.log").stat().st_mtime  # when it said it was up
        assert told - time.monotonic() + time.time() - died < 0.7 + 0.5
    assert "exit code 3" in caught.value.message
    assert "memory is too small" in caught.value.message
    assert "CUDA out of memory" in caught.value.message
    assert caught.value.exit_code == 5


def test_a_death_during_the_chat(tmp_path: Path) -> None:
    port = free_port()
    reported = pytest.raises(EngineFailed, match="The GPU reported an error")
    with fake(tmp_path, port, "--die-on-chat") as engine, reported:
        climb(engine, port)


def test_the_patience_ends(tmp_path: Path) -> None:
    port = free_port()
    told = pytest.raises(EngineFailed, match="not ready after 1 s")
    with fake(tmp_path, port, "--loading", "60") as engine, told:
        climb(engine, port, patience=1.0)


def test_a_heartbeat_while_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.ladder.HEARTBEAT", 0.2)
    port = free_port()
    beats: list[tuple[float, str]] = []
    with fake(tmp_path, port, "--loading", "1") as engine, Client(f"http://127.0.0.1:{port}") as client:
        ladder = Ladder(
            client,
            Target(),
            process=engine,
            patience=9,
            on_wait=lambda seconds, line: beats.append((seconds, line)),
        )
        assert ladder.climb()["process"].ok
    assert len(beats) >= 2
    assert beats[-1][1].startswith("can answer from")


def test_waiting_can_be_given_up(start: Start) -> None:
    url = start("--slow-chat", "60")
    began = time.monotonic()

    def guard() -> None:
        if time.monotonic() - began > 1.0:
            raise Interrupted

    with Client(url, guard=guard) as client, pytest.raises(Interrupted):
        Ladder(client, Target(), patience=9).climb()
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("http://h:1/v1", "http://h:1"),
        ("https://h/api/v1/", "https://h/api"),
        ("http://[::1]:80/", "http://[::1]"),
    ],
)
def test_spellings_of_a_url(url: str, base: str) -> None:
    assert base_url(url) == base


@pytest.mark.parametrize("url", ["", "ftp://h", "http://", "http://h:port"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(UsageError, match="URL"):
        base_url(url)


def test_markers_come_from_the_template() -> None:
    form = ChatTemplate(
        name="own",
        user=Markup("@@user: ", "\n"),
        assistant=Markup("", "<my_end>"),
        generation_prompt="\n\n### Reply:\n",
    )
    source = TemplateSource(spec="x", description="", origin="form", jinja="", form=form)
    markers = markers_of(source, None)
    assert {"@@user:", "<my_end>", "### Reply:", "[INST]"} <= set(markers)
    assert not judge([Answer("Hello.<my_end>", "stop")], markers).ok
    assert judge([Answer("Hello.", "stop")], markers).ok
    assert not judge([Answer("Hello.", "content_filter")], markers).ok


def test_a_proxy_stands_before_the_world_not_before_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert behind_proxy(httpx.URL("https://outside.example"))
    assert not behind_proxy(httpx.URL("https://inside.example"))
    assert not behind_proxy(httpx.URL("https://127.0.0.1:8000"))
