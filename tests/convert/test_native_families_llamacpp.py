"""Gemma, Phi-3, Command-R, OLMo 2 and StarCoder 2 against llama.cpp's own tools and against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint
from convert import plan_conversion, run_conversion
from tests.convert.gguf_bytes import metadata, tensor_digests
from tests.convert.logits import llamacpp_logits, transformers_logits
from tests.convert.oracle import stock_files
from tests.native_families import NATIVE_FAMILIES, REMOTE_FAMILIES, write_native

pytestmark = pytest.mark.engines

_TYPES = ("bf16", "q8_0", "q4_k_m", "q5_k_m", "q3_k_m", "q2_k")
_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{architecture: (architecture, {}) for architecture in (*NATIVE_FAMILIES, *REMOTE_FAMILIES)},
    "deepseek-8-experts": ("DeepseekForCausalLM", {"n_routed_experts": 8, "first_k_dense_replace": 2}),
    "phi3-short": ("Phi3ForCausalLM", {"rope_scaling": None, "sliding_window": None}),
    "phi4-mini": ("Phi3ForCausalLM", {"tie_word_embeddings": True, "sliding_window": None}),
    "gemma3-linear": ("Gemma3ForCausalLM", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    "command-r-plus": ("CohereForCausalLM", {"num_hidden_layers": 64, "use_qk_norm": True}),
}


@pytest.mark.parametrize("case", _CASES)
def test_every_type_is_identical(case: str, tmp_path: Path) -> None:
    architecture, changes = _CASES[case]
    directory = write_native(tmp_path / "Tiny-7M-Chat", architecture, **changes)
    plan = plan_conversion(Checkpoint.open(directory), _TYPES, tmp_path / "ours")
    ours = {file.type: file.path for file in run_conversion(plan)}
    theirs = stock_files(directory, tmp_path, _TYPES, "gpt-2")
    for kind in _TYPES:
        assert metadata(ours[kind]) == metadata(theirs[kind])
        mine, other = _tensors(ours[kind]), _tensors(theirs[kind])
        assert {name: mine.get(name) for name in mine if mine.get(name) != other.get(name)} == {}
        assert mine.keys() == other.keys()


def _tensors(path: Path) -> dict[str, tuple[Any, ...]]:
    """Type, shape and digest; the quantizer drops the first dimension of a matrix of one row."""
    return {
        name: (kind, shape[1:] if shape[0] == 1 else shape, digest)
        for name, (kind, shape, digest) in tensor_digests(path).items()
    }


@pytest.mark.parametrize("architecture", NATIVE_FAMILIES)
def test_llamacpp_computes_what_transformers_does(architecture: str, tmp_path: Path) -> None:
    directory = write_native(tmp_path / "Tiny-7M-Chat", architecture, dtype="F32")
    plan = plan_conversion(Checkpoint.open(directory), ["f32"], tmp_path / "ours")
    (file,) = run_conversion(plan)
    ids = [5, 17, 300, 260, 261, 262, 17, 44, 280, 291, 5, 6, 300, 17, 263, 270, 1, 299, 30, 31]
    expected = transformers_logits(directory, ids)
    computed = llamacpp_logits(file.path, ids)
    difference = float(np.abs(expected - computed).max())
    assert difference < 2e-3 * max(1.0, float(np.abs(expected).max())), difference
