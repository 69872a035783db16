"""InternLM, Baichuan, MiniCPM and GLM: which tensor becomes which, the keys, and the refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint
from convert import ConversionPlan, plan_conversion
from convert.rows import interleaved
from errors import ConversionError
from tests.checkpoints import write_safetensors
from tests.glm_checkpoints import write_glm
from tests.other_families import PIECE_FAMILIES, config_of, write_piece_checkpoint

Make = Callable[..., Path]


def _plan(directory: Path) -> ConversionPlan:
    return plan_conversion(Checkpoint.open(directory), ["q4_k_m"], directory.parent / "out")


def _fields(plan: ConversionPlan) -> dict[str, Any]:
    return {field.key: field.value for field in plan.files[0].fields}


def _rows(plan: ConversionPlan) -> dict[str, np.ndarray[Any, Any]]:
    return {
        source.name: source.rows.read(0, source.shape[0] if len(source.shape) > 1 else 1)
        for source in plan.sources
    }


@pytest.mark.parametrize("architecture", PIECE_FAMILIES)
def test_every_family_has_a_plan(architecture: str, tmp_path: Path) -> None:
    plan = _plan(write_piece_checkpoint(tmp_path / "model", architecture))
    names = {tensor.name for tensor in plan.files[0].tensors}
    assert {"token_embd.weight", "output_norm.weight", "blk.1.attn_output.weight"} <= names
    fields = _fields(plan)
    name = fields["general.architecture"]
    assert fields[f"{name}.block_count"] == (32 if name == "baichuan" else 2)
    assert fields[f"{name}.feed_forward_length"] == 512
    assert fields["tokenizer.ggml.model"] == "llama"
    assert len(fields["tokenizer.ggml.tokens"]) == 320


@pytest.mark.parametrize("architecture", ["GlmForCausalLM", "Glm4ForCausalLM"])
def test_glm_has_a_plan(architecture: str, tmp_path: Path) -> None:
    plan = _plan(write_glm(tmp_path / "model", architecture, rope_theta=500000.0))
    fields = _fields(plan)
    name = fields["general.architecture"]
    assert name == ("glm4" if architecture == "Glm4ForCausalLM" else "chatglm")
    expected = {
        f"{name}.context_length": 8192,
        f"{name}.rope.dimension_count": 32,
        f"{name}.rope.freq_base": 500000.0,
        "tokenizer.ggml.pre": "chatglm-bpe",
        "tokenizer.ggml.eos_token_id": 268,
        "tokenizer.ggml.eot_token_id": 270,
    }
    assert expected.items() <= fields.items()
    (up,) = (tensor for tensor in plan.files[0].tensors if tensor.name == "blk.0.ffn_up.weight")
    assert up.shape == (1024, 256)
    names = {tensor.name for tensor in plan.files[0].tensors}
    assert ("blk.0.post_ffw_norm.weight" in names) is (name == "glm4")


def test_internlm2_cuts_its_fused_tensor(tmp_path: Path) -> None:
    directory = write_piece_checkpoint(tmp_path / "model", "InternLM2ForCausalLM")
    rows = _rows(_plan(directory))
    fused = Checkpoint.open(directory).weights.raw("model.layers.0.attention.wqkv.weight")
    groups = fused.reshape(2, 4, 64, 256)  # two key-value heads: two query heads, k, v
    query, key = groups[:, :2].reshape(256, 256), groups[:, 2].reshape(128, 256)
    assert np.array_equal(rows["blk.0.attn_v.weight"], groups[:, 3].reshape(128, 256))
    assert np.array_equal(rows["blk.0.attn_q.weight"], query[interleaved(256, 4)])
    assert np.array_equal(rows["blk.0.attn_k.weight"], key[interleaved(128, 2)])


def test_baichuan_cuts_its_fused_tensor(tmp_path: Path) -> None:
    directory = write_piece_checkpoint(tmp_path / "model", "BaichuanForCausalLM")
    rows = _rows(_plan(directory))
    fused = Checkpoint.open(directory).weights.raw("model.layers.0.self_attn.W_pack.weight")
    assert np.array_equal(rows["blk.0.attn_q.weight"], fused[:256][interleaved(256, 4)])
    assert np.array_equal(rows["blk.0.attn_k.weight"], fused[256:512][interleaved(256, 4)])
    assert np.array_equal(rows["blk.0.attn_v.weight"], fused[512:])
    head = Checkpoint.open(directory).weights.raw("lm_head.weight")
    assert np.array_equal(rows["output.weight"], head)


def test_the_head_of_baichuan_2_is_divided_by_its_lengths(tmp_path: Path) -> None:
    directory = write_piece_checkpoint(tmp_path / "model", "BaichuanForCausalLM", z_loss_weight=0)
    head = _rows(_plan(directory))["output.weight"]
    assert head.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(head, axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("architecture", "change", "message"),
    [
        ("BaichuanForCausalLM", {"num_hidden_layers": 28}, "of 32 layers .* and of 40"),
        ("BaichuanForCausalLM", {"num_key_value_heads": 2}, "keys of their own"),
        ("MiniCPMForCausalLM", {"scale_emb": None}, "scale_emb = 'None'"),
        ("MiniCPMForCausalLM", {"dim_model_base": "x"}, "dim_model_base"),
        ("MiniCPMForCausalLM", {"num_experts": 8}, "with experts"),
        ("MiniCPMForCausalLM", {"hidden_act": "relu"}, "hidden_act = 'relu'"),
        (
            "MiniCPMForCausalLM",
            {"rope_scaling": {"type": "longrope", "long_factor": [1], "short_factor": [1]}},
            "a long_factor that is not a list of 32 numbers",
        ),
        ("MiniCPM3ForCausalLM", {"scale_depth": 1.0}, "every MiniCPM 3 with 1.4"),
        ("MiniCPM3ForCausalLM", {"q_lora_rank": None}, "q_lora_rank"),
        ("MiniCPM3ForCausalLM", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "scaling 'yarn'"),
        ("ChatGLMModel", {"rmsnorm": False}, "rmsnorm = False"),
        ("ChatGLMModel", {"layernorm_epsilon": "tiny"}, "layernorm_epsilon"),
        ("ChatGLMModel", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "scaling 'linear'"),
        ("InternLM2ForCausalLM", {"num_key_value_heads": 3}, "shared out evenly"),
        ("InternLM2ForCausalLM", {"rope_scaling": {"type": "made-up"}}, "scaling 'made-up'"),
    ],
)
def test_what_llamacpp_cannot_run_is_refused(
    architecture: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    directory = write_piece_checkpoint(tmp_path / "model", architecture)
    _write_config(directory, architecture, change)
    with pytest.raises(ConversionError, match=message):
        _plan(directory)


def test_internlm_names_its_rope_base_otherwise(tmp_path: Path) -> None:
    rotary = {"base": 50000, "type": "dynamic"}
    directory = write_piece_checkpoint(
        tmp_path / "model", "InternLMForCausalLM", rotary=rotary, rope_theta=None
    )
    assert _fields(_plan(directory))["llama.rope.freq_base"] == 50000.0


def _write_config(directory: Path, architecture: str, change: dict[str, Any]) -> None:
    (directory / "config.json").write_text(json.dumps(config_of(architecture, **change)), encoding="utf-8")


def test_minicpm_scales_and_its_extended_context(tmp_path: Path) -> None:
    long = {"rope_type": "longrope", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
    scaling = {**long, "original_max_position_embeddings": 1024}
    plan = _plan(write_piece_checkpoint(tmp_path / "model", "MiniCPMForCausalLM", rope_scaling=scaling))
    fields = _fields(plan)
    assert fields["minicpm.embedding_scale"] == 12.0
    assert fields["minicpm.logit_scale"] == 4.0
    assert fields["minicpm.residual_scale"] == pytest.approx(1.4 / 2**0.5)
    assert fields["minicpm.rope.scaling.type"] == "longrope"
    assert fields["minicpm.rope.scaling.original_context_length"] == 1024
    assert fields["minicpm.rope.scaling.attn_factor"] == pytest.approx(1.1**0.5)
    assert {"rope_factors_long.weight", "rope_factors_short.weight"} <= _rows(plan).keys()


def test_an_internlm2_with_biases_is_refused(tmp_path: Path) -> None:
    directory = write_piece_checkpoint(tmp_path / "model", "InternLM2ForCausalLM")
    weights = Checkpoint.open(directory).weights
    tensors = {name: (weights.info(name).dtype, weights.raw(name).copy()) for name in weights.names}
    tensors["model.layers.0.attention.wqkv.bias"] = ("BF16", np.zeros(512, np.uint16))
    write_safetensors(directory / "model.safetensors", tensors)
    with pytest.raises(ConversionError, match=r"attention\.wqkv\.bias"):
        _plan(directory)
