"""What becomes of the tensors and keys of DeepSeek-V2, V2-Lite and V3, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint
from convert import ConversionPlan, plan_conversion
from errors import ConversionError
from tests.deepseek_checkpoints import DEEPSEEK_MODELS, YARN, deepseek_config, write_deepseek

_SMALL: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A checkpoint of each model, written once."""
    root = tmp_path_factory.mktemp("deepseek")
    return {model: write_deepseek(root / model, model, **_SMALL) for model in DEEPSEEK_MODELS}


def _plan(models: Mapping[str, Path], model: str, **changes: Any) -> ConversionPlan:
    config = deepseek_config(model, **{**_SMALL, **changes})
    (models[model] / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return plan_conversion(Checkpoint.open(models[model]), ["q4_k_m"], models[model].parent)


def _metadata(plan: ConversionPlan) -> dict[str, Any]:
    return {field.key: field.value for field in plan.files[0].fields}


@pytest.mark.parametrize("model", DEEPSEEK_MODELS)
def test_every_tensor_of_the_model_finds_its_place(model: str, models: Mapping[str, Path]) -> None:
    plan = _plan(models, model)
    used = {name for source in plan.sources for name in source.rows.names}
    left = set(Checkpoint.open(plan.checkpoint).weights.names) - used
    assert {name.split(".")[2] for name in left} == ({"3"} if model == "v3" else set())
    names = {source.name for source in plan.sources}
    assert ("blk.1.exp_probs_b.bias" in names) is (model == "v3")
    assert ("blk.1.attn_q.weight" in names) is (model == "v2-lite")


def test_the_matrix_that_expands_keys_and_values_is_cut_and_turned(models: Mapping[str, Path]) -> None:
    plan = _plan(models, "v3")
    rows = {source.name: source.rows for source in plan.sources}
    stored = Checkpoint.open(plan.checkpoint).weights.raw("model.layers.1.self_attn.kv_b_proj.weight")
    heads = stored.reshape(4, 32 + 16, 256)
    keys, values = rows["blk.1.attn_k_b.weight"], rows["blk.1.attn_v_b.weight"]
    assert (keys.shape, values.shape) == ((4, 256, 32), (4, 16, 256))
    turned = heads[:, :32].transpose(0, 2, 1).reshape(-1, 32)
    straight = heads[:, 32:].reshape(-1, 256)
    for start, stop in ((0, 0), (0, 1), (100, 300), (0, 1024), (1023, 1024)):
        assert np.array_equal(keys.read(start, stop), turned[start:stop])
    for start, stop in ((0, 0), (0, 1), (5, 40), (0, 64), (63, 64)):
        assert np.array_equal(values.read(start, stop), straight[start:stop])


def test_the_types_of_its_own_tensors(models: Mapping[str, Path]) -> None:
    types = {tensor.name: tensor.type.name for tensor in _plan(models, "v3").files[0].tensors}
    assert types["blk.1.attn_k_b.weight"] == "Q5_0"  # rows of 32
    assert types["blk.1.attn_v_b.weight"] == "Q4_K"
    assert types["blk.1.exp_probs_b.bias"] == types["blk.1.ffn_gate_inp.weight"] == "F32"


def test_v3_is_sigmoid_also_where_config_json_is_silent(models: Mapping[str, Path]) -> None:
    keys = _metadata(_plan(models, "v3", scoring_func=None))
    assert keys["deepseek2.expert_gating_func"] == 2
    assert keys["deepseek2.rope.scaling.yarn_log_multiplier"] == pytest.approx(0.1)


def test_groups_that_are_chosen_otherwise_are_told(models: Mapping[str, Path]) -> None:
    assert [finding.code for finding in _plan(models, "v2").findings] == ["expert-groups-by-two"]
    assert _plan(models, "v2-lite").findings == ()


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("v2", {"scoring_func": "sigmoid"}, "scoring_func = 'sigmoid'"),
        ("v2", {"norm_topk_prob": True}, "norm_topk_prob = 'True'"),
        ("v2", {"topk_method": "greedy"}, "topk_method = 'greedy' and n_group = 4"),
        ("v2", {"topk_method": ["greedy"]}, "topk_method"),
        ("v2", {"q_lora_rank": None}, "3 layers and q_lora_rank = None"),
        ("v3", {"n_group": 5}, "n_group = '5'"),
        ("v3", {"topk_group": 5}, "n_group = '4'"),
        ("v3", {"routed_scaling_factor": None}, "routed_scaling_factor"),
        ("v3", {"rope_interleave": False}, "rope_interleave"),
        ("v3", {"moe_layer_freq": 2}, "moe_layer_freq"),
        ("v3", {"num_nextn_predict_layers": "one"}, "num_nextn_predict_layers = 'one'"),
        ("v3", {"v_head_dim": 0}, "v_head_dim"),
        ("v3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "scaling 'linear'"),
        ("v3", {"rope_scaling": {**YARN, "mscale": 1.0}}, "mscale = 1.0 and mscale_all_dim = 0.707"),
        ("v3", {"rope_scaling": {**YARN, "mscale": None, "mscale_all_dim": None}}, "mscale = None"),
        ("v3", {"rope_scaling": {**YARN, "attention_factor": 1.5}}, "attention_factor = 1.5"),
        ("v3", {"first_k_dense_replace": 9}, "a whole number up to 3"),
    ],
)
def test_what_llamacpp_does_not_compute_is_refused(
    model: str, changes: dict[str, Any], message: str, models: Mapping[str, Path]
) -> None:
    with pytest.raises(ConversionError, match=message):
        _plan(models, model, **changes)
