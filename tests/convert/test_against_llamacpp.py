"""Every type of every family, tensor for tensor and key for key, against llama.cpp's own tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint
from convert import TYPES, plan_conversion, run_conversion
from convert.types import FILE_TYPES
from tests.checkpoints import write_random_checkpoint
from tests.convert.gguf_bytes import metadata, tensor_digests
from tests.convert.logits import llamacpp_logits, transformers_logits
from tests.convert.oracle import quantize, stock_convert

pytestmark = pytest.mark.engines

_STOCK = ("f32", "f16", "bf16", "q8_0")
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "beta_fast": 32.0}

CASES: dict[str, dict[str, Any]] = {
    "llama-tied": {"tied": True, "layers": 3},
    "llama-rope-freqs": {"layers": 9, "heads": 8, "config": {"rope_scaling": _LLAMA3}},
    "llama-biased-f16": {"bias": True, "dtype": "F16", "shards": 2},
    "llama-f32": {"dtype": "F32", "heads": 4, "kv_heads": 1},
    "llama-80-layers": {"layers": 80, "tied": True, "intermediate": 256},
    "llama-odd-rows": {"hidden": 288, "intermediate": 544, "heads": 4, "kv_heads": 4},
    "llama-very-odd-rows": {"hidden": 264, "intermediate": 520, "heads": 4, "kv_heads": 4, "tied": True},
    "mistral-window": {"architecture": "MistralForCausalLM", "config": {"sliding_window": 512}},
    "qwen2-tied": {"architecture": "Qwen2ForCausalLM", "tied": True, "heads": 8, "layers": 5},
    "qwen2-untied-yarn": {"architecture": "Qwen2ForCausalLM", "config": {"rope_scaling": _YARN}},
    "deepseek-llm": {"kv_heads": 4, "config": {"head_dim": None}},
    "qwen1.5": {
        "architecture": "Qwen2ForCausalLM",
        "kv_heads": 4,
        "vocab": 320,
        "config": {"head_dim": None, "use_sliding_window": False, "sliding_window": 1024},
    },
    "qwen3-tied": {"architecture": "Qwen3ForCausalLM", "tied": True, "layers": 17},
    "qwen3-untied": {"architecture": "Qwen3ForCausalLM", "heads": 8, "kv_heads": 1, "shards": 3},
    "linear-padded": {"vocab": 320, "config": {"rope_scaling": {"type": "linear", "factor": 2.0}}},
}


@pytest.mark.parametrize("case", CASES)
def test_every_type_is_identical(case: str, tmp_path: Path) -> None:
    checkpoint = write_random_checkpoint(tmp_path / "Tiny-7M-Chat", **CASES[case])
    ours = _convert(checkpoint, TYPES, tmp_path / "ours")
    theirs = stock_convert(checkpoint, tmp_path, _STOCK, "gpt-2")
    rest = [kind for kind in TYPES if kind not in theirs]
    targets = {kind: tmp_path / f"{kind}.gguf" for kind in (*rest, "q8_0 again")}
    numbers = [FILE_TYPES[kind.split()[0]].number for kind in targets]
    quantize(theirs["f32"], list(zip(numbers, targets.values(), strict=True)))
    for kind, path in {**theirs, **targets}.items():
        _compare(ours[kind.split()[0]], path)


def test_the_sample_is_identical(sample: Path, tmp_path: Path) -> None:
    ours = _convert(sample, ("f32", "bf16", "q8_0", "q4_k_m", "q4_1"), tmp_path / "ours")
    for kind, path in stock_convert(sample, tmp_path, ("f32", "bf16", "q8_0")).items():
        _compare(ours[kind], path)
    quantize(tmp_path / "bf16.gguf", [(15, tmp_path / "q4_k_m.gguf"), (3, tmp_path / "q4_1.gguf")])
    for kind in ("q4_k_m", "q4_1"):
        _compare(ours[kind], tmp_path / f"{kind}.gguf")


@pytest.mark.parametrize(
    "case", ["llama-rope-freqs", "llama-biased-f16", "linear-padded", "qwen2-untied-yarn", "qwen3-untied"]
)
def test_llamacpp_computes_what_transformers_does(case: str, tmp_path: Path) -> None:
    checkpoint = write_random_checkpoint(tmp_path / "model", **{**CASES[case], "dtype": "F32", "shards": 1})
    ours = _convert(checkpoint, ("f32",), tmp_path / "ours")["f32"]
    ids = [5, 17, 260, 261, 262, 17, 44, 265, 5, 6, 17, 263, 270, 1, 269, 30, 31]
    expected, computed = transformers_logits(checkpoint, ids), llamacpp_logits(ours, ids)
    largest = float(np.abs(expected).max())
    assert largest > 0.1
    np.testing.assert_allclose(computed, expected, atol=2e-5 * largest)


def _convert(directory: Path, types: tuple[str, ...], target: Path) -> dict[str, Path]:
    plan = plan_conversion(Checkpoint.open(directory), types, target)
    return {file.type: file.path for file in run_conversion(plan)}


def _compare(ours: Path, theirs: Path) -> None:
    assert metadata(ours) == metadata(theirs)
    our_tensors, their_tensors = tensor_digests(ours), tensor_digests(theirs)
    assert our_tensors.keys() == their_tensors.keys()
    different = {
        name: (our_tensors[name][:2], their_tensors[name][:2])
        for name in our_tensors
        if our_tensors[name] != their_tensors[name]
    }
    assert not different
