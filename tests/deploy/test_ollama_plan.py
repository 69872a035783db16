"""What Ollama is told: its address, the requests that make the model, and what it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import ServePlan, ServeRequest, plan_serving
from deploy.engines.ollama_model import template_in_use
from deploy.ports import free_port
from errors import BadInput, EngineMissing, TemplateError, UsageError
from modelfiles import Modelfile, create_request

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, a PATH with an `ollama` and an OLLAMA_HOST at which nobody answers."""
    found = tmp_path / "bin" / "ollama"
    found.parent.mkdir()
    found.write_text("#!/bin/sh\n")
    found.chmod(0o755)
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(found.parent))
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free_port()}")
    monkeypatch.delenv("PORTSIDE_OLLAMA", raising=False)
    return found


def plan(model: Path, **options: object) -> ServePlan:
    return plan_serving(ServeRequest("ollama", model, **options))  # type: ignore[arg-type]


def test_the_whole_plan(make_checkpoint: MakeCheckpoint, program: Path) -> None:
    found = plan(make_checkpoint("mine"), source="family:qwen3", port=free_port(), name="mine:v2")
    assert found.argv == (str(program), "serve")
    assert found.env == {"OLLAMA_HOST": f"127.0.0.1:{found.port}", "OLLAMA_KEEP_ALIVE": "-1"}
    create, load = found.as_json()["steps"]
    assert (create["rung"], load["rung"]) == ("models", "generate")
    request = create["request"]
    assert request["model"] == "mine:v2"
    assert request["files"] == {"mine-Q8_0.gguf": "sha256:…"}
    assert ".Messages" in request["template"]
    assert request["parameters"]["stop"][0] == "<|im_end|>"
    assert load["request"] == {"model": "mine:v2", "keep_alive": -1, "stream": False}
    assert "before models" in found.rows()


def test_as_it_is_there_is_nothing_but_the_file(make_checkpoint: MakeCheckpoint) -> None:
    request = plan(make_checkpoint("mine"), as_is=True).as_json()["steps"][0]["request"]
    assert set(request) == {"model", "files", "stream"}


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("10.0.0.9", "http://10.0.0.9:11434"),
        (":9999", "http://127.0.0.1:9999"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("http://10.0.0.9", "http://10.0.0.9:80"),
        ("http://10.0.0.9:123/", "http://10.0.0.9:123"),
        ("[::1]:9999", "http://[::1]:9999"),
    ],
)
def test_the_address_is_that_of_ollama_host(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch, text: str, url: str
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", text)
    monkeypatch.setattr("deploy.ports.is_open", lambda *_: False)
    assert plan(make_checkpoint()).url == url


@pytest.mark.parametrize("text", ["https://elsewhere", "127.0.0.1:http", "[::1"])
def test_an_address_that_is_none(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", text)
    with pytest.raises(UsageError, match="OLLAMA_HOST="):
        plan(make_checkpoint())


def test_what_ollama_cannot_do(make_checkpoint: MakeCheckpoint, tmp_path: Path, program: Path) -> None:
    model = make_checkpoint()
    with pytest.raises(UsageError, match="no API keys"):
        plan(model, api_key="hush")
    with pytest.raises(UsageError, match="one runtime"):
        plan(model, runtime="embedded")
    with pytest.raises(UsageError, match="no model name like 'a b'"):
        plan(model, name="a b")
    with pytest.raises(BadInput, match="is a GGUF file"):
        plan(tmp_path / "m.gguf")
    program.unlink()
    with pytest.raises(EngineMissing, match="none can be started: ollama is not on PATH"):
        plan(model)


def test_a_request_carries_what_a_modelfile_cannot() -> None:
    modelfile = Modelfile(
        "./sub/m.gguf",
        system='ends in """\nand a joiner \u200d',
        parameters=(("stop", "a"), ("num_ctx", 9), ("stop", "b"), ("temperature", 1)),
        messages=(("user", "Hi"),),
        license=("MIT",),
    )
    assert create_request(modelfile, "m", "sha256:0") == {
        "model": "m",
        "files": {"m.gguf": "sha256:0"},
        "system": modelfile.system,
        "license": ["MIT"],
        "messages": [{"role": "user", "content": "Hi"}],
        "parameters": {"stop": ["a", "b"], "num_ctx": 9, "temperature": 1},
        "stream": True,
    }
    with pytest.raises(TemplateError, match="parameter stop is 3"):
        create_request(Modelfile("m", parameters=(("stop", 3),)), "m", "sha256:0")


@pytest.mark.parametrize(
    ("version", "template", "jinja", "words"),
    [
        ("0.24.0", "{{ .Prompt }}", "{{ tools }}", "the TEMPLATE"),
        ("0.30.0", "{{ .Prompt }}", "{{ messages }}", "the TEMPLATE"),
        ("0.33.0-rc2", "{{ .Prompt }}", "{{ tools }}", "the GGUF file's own .* no tools"),
        ("0.33.0", "{{ .Tools }}", "{{ tools }}<think></think>", "the GGUF file's own .* no thoughts"),
        ("1.0", "{{ .Tools }}<think>", "{{ tools }}<think></think>", "the TEMPLATE"),
        ("0.33.0", None, "{{ tools }}", "its own choice"),
    ],
)
def test_which_template_counts(version: str, template: str | None, jinja: str, words: str) -> None:
    import re

    assert re.search(words, template_in_use(version, template, jinja))
