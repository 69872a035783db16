"""AWQ by the real LMDeploy, on the CPU, of a tiny random model; PORTSIDE_TEST_LMDEPLOY names LMDeploy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint import Checkpoint
from deploy.quantize import plan_awq, run_awq

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(
        "PORTSIDE_TEST_LMDEPLOY" not in os.environ, reason="PORTSIDE_TEST_LMDEPLOY names none"
    ),
]


def test_with_and_without_calibration(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTSIDE_LMDEPLOY", os.environ["PORTSIDE_TEST_LMDEPLOY"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    model = make_checkpoint("mine", architecture="Qwen2ForCausalLM")
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 300)
    words: list[str] = []
    plain = run_awq(plan_awq(model, tmp_path / "plain", samples=0, group_size=32), words.append)
    fitted = run_awq(plan_awq(model, tmp_path / "fitted", data=text, samples=4, group_size=32))
    assert any(words)
    for done in (plain, fitted):
        made = Checkpoint.open(done.plan.output)
        assert made.config.quantization == "awq"
        assert done.tensors == 7 * 2
        assert done.bytes < Checkpoint.open(model).weights.bytes / 2
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            assert (made.path / name).read_bytes() == (model / name).read_bytes()
        assert not list(made.path.glob("*.pth"))
    weights = [(done.plan.output / "model.safetensors").read_bytes() for done in (plain, fitted)]
    assert weights[0] != weights[1], "the text changes the weights"
