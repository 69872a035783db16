"""What becomes of the tensors of Gemma, Phi-3, Command-R, OLMo 2 and StarCoder 2, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint
from convert import ConversionPlan, plan_conversion
from errors import ConversionError
from tests.checkpoints import edit_json
from tests.native_families import NATIVE_FAMILIES, REMOTE_FAMILIES, write_native


def _plan(directory: Path, tmp_path: Path) -> ConversionPlan:
    return plan_conversion(Checkpoint.open(directory), ["q8_0"], tmp_path / "out")


def _metadata(plan: ConversionPlan) -> dict[str, Any]:
    return {field.key: field.value for field in plan.files[0].fields}


@pytest.mark.parametrize("architecture", [*NATIVE_FAMILIES, *REMOTE_FAMILIES])
def test_every_tensor_finds_its_place(architecture: str, tmp_path: Path) -> None:
    directory = write_native(tmp_path / "model", architecture)
    plan = _plan(directory, tmp_path)
    used = [name for source in plan.sources for name in source.rows.names]
    assert sorted(used) == sorted(Checkpoint.open(directory).weights.names)
    assert {"token_embd.weight", "output_norm.weight", "blk.2.attn_output.weight"} <= {
        source.name for source in plan.sources
    }


def test_experts_are_one_stack(tmp_path: Path) -> None:
    directory = write_native(tmp_path / "model", "Qwen3MoeForCausalLM")
    rows = {source.name: source.rows for source in _plan(directory, tmp_path).sources}
    stack = rows["blk.1.ffn_up_exps.weight"]
    assert stack.shape == (8, 256, 256)
    weights = Checkpoint.open(directory).weights
    parts = [weights.raw(f"model.layers.1.mlp.experts.{number}.up_proj.weight") for number in range(8)]
    whole = np.stack(parts).reshape(-1, 256)
    for start, stop in ((0, 1), (200, 300), (0, 2048), (2047, 2048)):
        assert np.array_equal(stack.read(start, stop), whole[start:stop])


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    directory = write_native(tmp_path / "model", "MixtralForCausalLM")
    edit_json(directory / "config.json", num_local_experts=9)
    with pytest.raises(ConversionError, match=r"lacks the tensors .*experts\.8\.w1\.weight"):
        _plan(directory, tmp_path)


def test_the_dense_layers_of_deepseek_come_first(tmp_path: Path) -> None:
    directory = write_native(tmp_path / "model", "DeepseekForCausalLM")
    shapes = {source.name: source.shape for source in _plan(directory, tmp_path).sources}
    assert [name for name in shapes if name.endswith("ffn_up.weight")] == ["blk.0.ffn_up.weight"]
    assert shapes["blk.2.ffn_up_exps.weight"] == (6, 256, 256)
    assert shapes["blk.2.ffn_down_shexp.weight"] == (256, 512)
    edit_json(directory / "config.json", first_k_dense_replace=0)
    with pytest.raises(ConversionError, match=r"holds the tensors model\.layers\.0\.mlp"):
        _plan(directory, tmp_path)


def test_norms_of_gemma_are_one_more(tmp_path: Path) -> None:
    directory = write_native(tmp_path / "model", "Gemma2ForCausalLM")
    plan = _plan(directory, tmp_path)
    rows = {source.name: source.rows for source in plan.sources}
    bits = Checkpoint.open(directory).weights.raw("model.layers.1.post_feedforward_layernorm.weight")
    stored = (bits.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(rows["blk.1.post_ffw_norm.weight"].read(0, 1)[0], stored + 1)
    assert _metadata(plan)["gemma2.final_logit_softcapping"] == 30.0


def test_the_two_tables_of_longrope(tmp_path: Path) -> None:
    plan = _plan(write_native(tmp_path / "model", "Phi3ForCausalLM"), tmp_path)
    rows = {source.name: source.rows for source in plan.sources}
    assert rows["rope_factors_long.weight"].shape == rows["rope_factors_short.weight"].shape == (32,)
    assert _metadata(plan)["phi3.rope.scaling.original_context_length"] == 1024
    assert _metadata(plan)["phi3.rope.scaling.attn_factor"] == pytest.approx(1.0488088)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("GemmaForCausalLM", {"tie_word_embeddings": False}, "no head of their own"),
        ("GemmaForCausalLM", {"rope_theta": 5000.0}, "changes RoPE"),
        ("Gemma2ForCausalLM", {"attn_logit_softcapping": "high"}, "attn_logit_softcapping = 'high'"),
        ("Gemma3ForCausalLM", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "RoPE scaling 'yarn'"),
        ("Gemma3ForCausalLM", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("Phi3ForCausalLM", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "scaling 'linear'"),
        (
            "Phi3ForCausalLM",
            {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            "a list of 32 numbers",
        ),
        ("Phi3ForCausalLM", {"partial_rotary_factor": 7}, "a number up to 1"),
        ("CohereForCausalLM", {"use_qk_norm": True}, "64 layers or more"),
        ("CohereForCausalLM", {"logit_scale": -1}, "logit_scale = '-1'"),
        ("Starcoder2ForCausalLM", {"norm_epsilon": [1]}, "norm_epsilon"),
        ("MixtralForCausalLM", {"num_experts_per_tok": 0}, "num_experts_per_tok = '0'"),
        ("MixtralForCausalLM", {"num_experts_per_tok": 9}, "asks for 9 experts a token of 8"),
        ("Qwen2MoeForCausalLM", {"norm_topk_prob": True}, "norm_topk_prob: True"),
        ("Qwen3MoeForCausalLM", {"mlp_only_layers": [0]}, "some layers dense"),
        ("DeepseekForCausalLM", {"norm_topk_prob": True}, "norm_topk_prob = 'True'"),
        ("DeepseekForCausalLM", {"first_k_dense_replace": 4}, "a whole number up to 3"),
        ("DeepseekForCausalLM", {"head_dim": 32}, "4 heads of 32"),
        ("DeepseekForCausalLM", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "scaling 'yarn'"),
        ("Olmo2ForCausalLM", {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "scaling 'llama3'"),
    ],
)
def test_what_llamacpp_does_not_compute_is_refused(
    architecture: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    directory = write_native(tmp_path / "model", architecture, **changes)
    with pytest.raises(ConversionError, match=message):
        _plan(directory, tmp_path)
