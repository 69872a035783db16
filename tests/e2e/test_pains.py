"""What users suffer from, seen through the command line: it is found, told in words, repaired.

The two that serve have the marker `engines`: they take half a minute, and tests/deploy/test_embedded.py shows
the same from inside in every test run.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints import copy_sample
from tests.deploy.pains import ALPACA

WRONG_EOS = "<|endoftext|>"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of this module's own, so that nothing is served that an earlier run has made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTSIDE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def portside(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def serve(model: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return portside("serve", "llamacpp", model, "--runtime", "embedded", "--port", "0", *options)


def test_wrong_eos_ids_are_told_by_inspect_and_template(sample: Path, tmp_path: Path) -> None:
    model = copy_sample(sample, tmp_path / "model", eos=WRONG_EOS)
    inspected = portside("inspect", model, "--json")
    assert inspected.returncode == 0
    findings = {finding["code"]: finding for finding in json.loads(inspected.stdout)["findings"]}
    told = findings["template-stop-not-in-generation-config"]
    assert "<|im_end|>" in told["message"]
    assert "eos_token_id" in told["fix"]
    proven = portside("template", model)
    assert proven.returncode == 0
    assert "template-stop-not-in-generation-config" in proven.stdout


def test_wrong_eos_ids_are_repaired_in_the_gguf(sample: Path, tmp_path: Path) -> None:
    from convert import read_gguf

    model = copy_sample(sample, tmp_path / "model", eos=WRONG_EOS)
    assert portside("gguf", model, "-o", tmp_path / "repaired").returncode == 0
    assert portside("gguf", model, "-o", tmp_path / "as-is", "--as-is").returncode == 0
    (repaired,), (as_is,) = (list((tmp_path / name).iterdir()) for name in ("repaired", "as-is"))
    ids = {read_gguf(repaired).metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot")}
    assert 2 in ids
    assert read_gguf(as_is).metadata["tokenizer.ggml.eos_token_id"] == 0


@pytest.mark.engines
def test_a_foreign_template_fails_at_stop_with_exit_code_1(sample: Path, tmp_path: Path) -> None:
    model = copy_sample(sample, tmp_path / "model", chat_template=ALPACA)
    done = serve(model, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert {rung["name"]: rung["ok"] for rung in report["rungs"]}["stop"] is False
    assert "never stops" in done.stderr
    assert "--template" in done.stderr


@pytest.mark.engines
def test_the_right_template_repairs_it_and_the_ladder_compares(sample: Path, tmp_path: Path) -> None:
    model = copy_sample(sample, tmp_path / "model", chat_template=ALPACA)
    command = [sys.executable, "-m", "cli", "serve", "llamacpp", str(model), "--runtime", "embedded"]
    options = ["--port", "0", "--template", "family:smollm2", "--json"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            report = json.loads(server.stdout.readline())
            assert [rung["ok"] for rung in report["rungs"]] == [True] * 7
            right = portside("health", report["url"], "--checkpoint", model, "--template", "family:smollm2")
            wrong = portside("health", report["url"], "--checkpoint", model)
        finally:
            server.send_signal(signal.SIGINT)
    assert server.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(report["pid"], 0)
    assert right.returncode == 0
    assert wrong.returncode == 1
    line = next(line for line in wrong.stdout.splitlines() if "prompt" in line)
    assert line.startswith("✗")
    shown = re.sub(r"[\s·]+", " ", wrong.stdout)
    assert "### Instruction:" in shown
    assert "<|im_start|>" in shown
