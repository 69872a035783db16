"""Every command that a document shows is run, page by page, on the real sample with the embedded engine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from cli import main
from deploy.ports import free_port, is_open
from tests.checkpoints import copy_sample, write_safetensors
from tests.docs.commands import DOCUMENTS, FOREIGN, ROOT, asks_a_server, commands_of, for_a_test
from tests.e2e.story import training_run

PORTSIDE = f"{sys.prefix}/bin/portside"
WITH_COMMANDS = [name for name in DOCUMENTS if any(commands_of((ROOT / name).read_text(encoding="utf-8")))]
MISSING = 4
"""The exit code of a command whose engine is not installed."""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_shows_commands_that_exist(document: str) -> None:
    for command in commands_of((ROOT / document).read_text(encoding="utf-8")):
        where = f"{document}:{command.line}: {command}"
        assert command.program in FOREIGN | {"portside", "make", "python", ""}, f"{where}: nobody knows that"
        if command.program == "portside":  # parsed, not run: click raises for what there is not
            _, verb, *arguments = command.words
            assert verb in main.commands, where
            with main.commands[verb].make_context(verb, arguments):
                pass
        if command.program == "python":
            assert (ROOT / command.words[1]).is_file(), where


@pytest.fixture
def workplace(tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a directory with the files that the documents speak of; what is started in it is stopped."""
    for name in ("path/to/merged", "path/to/base", "merged", "sample", "models/assistant", "models/coder"):
        copy_sample(sample, tmp_path / name)
    _write_adapter(tmp_path / "path/to/lora")
    training_run(tmp_path / "saves/run")
    shutil.copy(ROOT / "chat_templates/families/smollm2.toml", tmp_path / "my-template.toml")
    shutil.copy(sample / "chat_template.jinja", tmp_path / "my-template.jinja")
    written = (ROOT / "README.md").read_text(encoding="utf-8")[:4000]
    (tmp_path / "what-my-users-write.txt").write_text(written, encoding="utf-8")
    for name in ("Makefile", "requirements", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    if "PORTSIDE_TEST_LMDEPLOY" in os.environ:
        monkeypatch.setenv("PORTSIDE_LMDEPLOY", os.environ["PORTSIDE_TEST_LMDEPLOY"])
    yield tmp_path
    subprocess.run([PORTSIDE, "stop", "--all"], cwd=tmp_path, check=True)


@pytest.mark.engines
@pytest.mark.timeout(900)
@pytest.mark.parametrize("document", WITH_COMMANDS)
def test_the_commands_of_a_document_work(document: str, workplace: Path) -> None:
    port, env = free_port("127.0.0.1"), dict(os.environ)
    for command in commands_of((ROOT / document).read_text(encoding="utf-8")):
        env |= dict(command.env)
        if command.program in FOREIGN | {"", "python"} or command.needs_hub:
            continue
        where = f"{document}:{command.line}: {command}"
        for shown in _to_run(command.words, workplace, where):
            words = for_a_test(shown, port)
            if words[1:3] == ("serve", "llamacpp"):  # a document's servers are alternatives, at one port
                _run(("portside", "stop", "--all"), workplace, env)
            elif asks_a_server(words) and not is_open("127.0.0.1", port):
                _run(for_a_test(("portside", "serve", "llamacpp", "merged"), port), workplace, env)
            done = _run(words, workplace, env)
            assert done.returncode in (0, *_may_miss(words)), f"{where}\n{done.stdout}\n{done.stderr}"
            if command.output:
                (workplace / command.output).write_text(done.stdout)


def _to_run(words: tuple[str, ...], directory: Path, where: str) -> Iterator[tuple[str, ...]]:
    """Yield the `portside` commands that a command comes to: itself, or what its make target would run."""
    if words[0] == "portside":
        yield words
        return
    make = ["make", "-n", *words[1:]]
    told = subprocess.run(make, cwd=directory, capture_output=True, text=True, check=False)
    assert told.returncode == 0, f"{where}\n{told.stderr}"
    for line in told.stdout.splitlines():
        if line.startswith(".venv/bin/portside "):
            yield ("portside", *shlex.split(line)[1:])


def _run(words: tuple[str, ...], directory: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PORTSIDE, *words[1:]],
        cwd=directory,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _may_miss(words: tuple[str, ...]) -> tuple[int, ...]:
    """Return the exit codes besides 0: of an engine that this machine does not have, nothing can be shown."""
    engines = {"vllm": "PORTSIDE_VLLM", "lmdeploy": "PORTSIDE_LMDEPLOY", "ollama": "PORTSIDE_OLLAMA"}
    missing = any(engine in words and variable not in os.environ for engine, variable in engines.items())
    return (MISSING,) if missing else ()


def _write_adapter(directory: Path) -> None:
    """Write a LoRA adapter for the sample that changes next to nothing."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(3)
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    write_safetensors(
        directory / "adapter_model.safetensors",
        {
            f"{module}.lora_A.weight": ("F32", rng.normal(0, 1e-4, (4, 576)).astype(np.float32)),
            f"{module}.lora_B.weight": ("F32", rng.normal(0, 1e-4, (576, 4)).astype(np.float32)),
        },
    )
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "target_modules": ["q_proj"]}
    (directory / "adapter_config.json").write_text(json.dumps(config))
