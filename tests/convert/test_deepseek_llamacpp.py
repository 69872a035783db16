"""DeepSeek-V2, V2-Lite and V3, and 8-bit floats, against llama.cpp's own tools and against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint
from convert import plan_conversion, run_conversion
from tests.checkpoints import write_random_checkpoint
from tests.convert.gguf_bytes import metadata, tensor_digests
from tests.convert.logits import llamacpp_logits, transformers_logits
from tests.convert.oracle import stock_convert, stock_files
from tests.deepseek_checkpoints import write_deepseek
from tests.fp8_checkpoints import to_fp8

pytestmark = pytest.mark.engines

_TYPES = ("bf16", "q8_0", "q4_k_m", "q3_k_m", "q2_k")
_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "v2": ("v2", {}),
    "v2-lite": ("v2-lite", {}),
    "v3": ("v3", {}),
    # As transformers saves it: the length of the rotated part is called head_dim.
    "v3-saved": ("v3", {"head_dim": 64, "qk_head_dim": 192, "num_nextn_predict_layers": 0}),
    "v3-without-scaling": ("v3", {"rope_scaling": None, "n_routed_experts": 8}),
}


@pytest.mark.parametrize("case", _CASES)
def test_every_type_is_identical(case: str, tmp_path: Path) -> None:
    model, changes = _CASES[case]
    directory = write_deepseek(tmp_path / "Tiny-7M-Chat", model, **changes)
    plan = plan_conversion(Checkpoint.open(directory), _TYPES, tmp_path / "ours")
    ours = {file.type: file.path for file in run_conversion(plan)}
    theirs = stock_files(directory, tmp_path, _TYPES, "gpt-2")
    for kind in _TYPES:
        assert metadata(ours[kind]) == metadata(theirs[kind])
        assert tensor_digests(ours[kind]) == tensor_digests(theirs[kind])


@pytest.mark.parametrize("case", ["v2", "v2-lite", "v3", "v3-without-scaling"])
def test_llamacpp_computes_what_transformers_does(case: str, tmp_path: Path) -> None:
    model, changes = _CASES[case]
    if model == "v2":
        # llama.cpp chooses groups of experts in V3's way, which is told as a finding.
        changes = {**changes, "topk_method": "greedy", "n_group": 1, "topk_group": 1}
    own = {**changes, "num_nextn_predict_layers": 0}
    directory = write_deepseek(tmp_path / "Tiny-7M-Chat", model, dtype="F32", **own)
    plan = plan_conversion(Checkpoint.open(directory), ["f32"], tmp_path / "ours")
    (file,) = run_conversion(plan)
    ids = [5, 17, 300, 260, 261, 262, 17, 44, 280, 291, 5, 6, 300, 17, 263, 270, 1, 299, 30, 31]
    expected = transformers_logits(directory, ids)
    computed = llamacpp_logits(file.path, ids)
    assert float(np.abs(expected).max()) > 0.1
    # Measured for V3: 1.2e-6.
    np.testing.assert_allclose(computed, expected, atol=2e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    ("form", "dtype"),
    [("block", "F8_E4M3"), ("channel", "F8_E4M3"), ("channel", "F8_E5M2"), ("tensor", "F8_E4M3")],
)
def test_8_bit_floats_are_multiplied_out_alike(form: str, dtype: str, tmp_path: Path) -> None:
    directory = tmp_path / "Tiny-7M-Chat"
    if form == "block":
        write_deepseek(directory, "v3", moe_intermediate_size=320)
    else:
        write_random_checkpoint(directory, architecture="Qwen2ForCausalLM", tied=True)
    to_fp8(directory, form, dtype=dtype)
    types = ("bf16", "q8_0")
    plan = plan_conversion(Checkpoint.open(directory), types, tmp_path / "ours")
    ours = {file.type: file.path for file in run_conversion(plan)}
    theirs = stock_convert(directory, tmp_path, types, "gpt-2")
    for kind in types:
        assert metadata(ours[kind]) == metadata(theirs[kind])
        assert tensor_digests(ours[kind]) == tensor_digests(theirs[kind])
