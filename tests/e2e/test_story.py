"""The first user's story: trained with one template, shipped with another; found, repaired, healthy.

The half that needs vLLM is in tests/engines.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chat_templates import TemplateSource, analyse_stops, facts_of, load_source, write_served_view
from chat_templates.conversations import cases_of
from chat_templates.dialects.ollama import OllamaDialect
from chat_templates.sources.load import source_of_jinja
from checkpoint import Checkpoint
from convert import read_gguf
from modelfiles import parse
from tests.e2e.story import XTUNER, merged, training_run


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTSIDE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return merged(sample, tmp_path_factory.mktemp("story") / "merged")


@pytest.fixture(params=["xtuner", "llamafactory"])
def trained_with(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return XTUNER if request.param == "xtuner" else training_run(tmp_path / "run")


def portside(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def says_what_was_trained(jinja: str, trained: TemplateSource) -> bool:
    """Whether a Jinja that an engine would run gives the training prompt in every plain conversation."""
    tokens = (trained.bos_token, trained.eos_token)
    served = source_of_jinja("x.jinja", "x.jinja", jinja, tokens, "x")
    return all(
        served.render(case.messages) == trained.render(case.messages)
        for name in ("chat", "unicode")
        for case in cases_of(name)
    )


def test_the_mismatch_is_told_first_with_both_prompts(model: Path, trained_with: str) -> None:
    assert portside("inspect", model).returncode == 0
    inspected = portside("inspect", model, "--template", trained_with, "--json")
    assert inspected.returncode == 0
    findings = {finding["code"]: finding for finding in json.loads(inspected.stdout)["findings"]}
    told = findings["template-differs"]["message"]
    assert "<|im_start|>" in told
    assert "### Instruction:" in told
    proven = portside("template", model, "--template", trained_with)
    assert proven.returncode == 0
    assert "template-differs" in proven.stdout.splitlines()[0]
    lines = {line.split()[0]: line for line in proven.stdout.splitlines() if line.startswith("  ")}
    assert "training <|im_start|>" in lines["training"]
    assert "its own ###·Instruction:⏎" in lines["its"]
    matched = portside("template", model, "--match", "--json")
    assert "qwen" not in str(json.loads(matched.stdout)["matches"])


def test_the_served_view_the_gguf_and_the_modelfile_say_what_was_trained(
    model: Path, tmp_path: Path, trained_with: str
) -> None:
    checkpoint = Checkpoint.open(model)
    assert "### Instruction:" in (checkpoint.chat_template or "")
    trained = load_source(trained_with, checkpoint)
    stops = analyse_stops(trained, checkpoint)

    view = Checkpoint.open(write_served_view(checkpoint, trained, stops, tmp_path / "view"))
    assert says_what_was_trained(view.chat_template or "", trained)
    assert 2 in view.generation.eos_token_ids

    bundle = tmp_path / "bundle"
    done = portside("build", model, "--template", trained_with, "-o", bundle)
    assert done.returncode == 0, done.stderr
    (gguf,) = bundle.glob("*.gguf")
    metadata = read_gguf(gguf).metadata
    assert says_what_was_trained(metadata["tokenizer.chat_template"], trained)
    assert metadata["tokenizer.ggml.eos_token_id"] == 2

    modelfile = parse((bundle / "Modelfile").read_text(encoding="utf-8"))
    assert modelfile.from_ == f"./{gguf.name}"
    assert "<|im_end|>" in modelfile.values("stop")
    facts = facts_of(trained, checkpoint, gguf=True)
    for case in cases_of("chat"):
        prompt = OllamaDialect().render(modelfile.template or "", case.messages, facts)
        assert prompt == trained.render(case.messages), case.name
    assert "### Instruction:" in (checkpoint.path / "chat_template.jinja").read_text(encoding="utf-8")


def test_repaired_it_stops_by_itself_on_llama_cpp(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli", "serve", "llamacpp", str(model), "--runtime", "embedded"]
    options = ["--port", "0", "--template", training_run(tmp_path / "run"), "--json"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        report = json.loads(server.stdout.readline())
        server.send_signal(signal.SIGINT)
    assert {rung["name"]: rung["ok"] for rung in report["rungs"]} == dict.fromkeys(
        ("process", "port", "health", "models", "generate", "stop", "prompt"), True
    ), report
    assert server.returncode == 0
