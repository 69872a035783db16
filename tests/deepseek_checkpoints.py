"""Tiny random checkpoints of DeepSeek-V2, V2-Lite and V3, named and shaped as the published ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.checkpoints import CHATML, write_random_checkpoint, write_random_weights

__all__ = ["DEEPSEEK_MODELS", "deepseek_config", "write_deepseek"]

YARN = {
    "type": "yarn",
    "factor": 4.0,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": 512,
}
_COMMON: Mapping[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 320,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "kv_lora_rank": 256,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 64,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 256,
    "moe_layer_freq": 1,
}
DEEPSEEK_MODELS: Mapping[str, Mapping[str, Any]] = {
    "v2": {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "num_hidden_layers": 3,
        "q_lora_rank": 256,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "topk_method": "group_limited_greedy",
        "scoring_func": "softmax",
        "norm_topk_prob": False,
        "routed_scaling_factor": 16.0,
        "rope_scaling": YARN,
    },
    "v2-lite": {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "num_hidden_layers": 27,
        "q_lora_rank": None,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "scoring_func": "softmax",
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "rope_scaling": YARN,
    },
    "v3": {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "num_hidden_layers": 3,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 256,
        "n_routed_experts": 12,
        "n_shared_experts": 1,
        "num_experts_per_tok": 4,
        "n_group": 4,
        "topk_group": 2,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    },
}


def deepseek_config(model: str, **changes: Any) -> dict[str, Any]:
    """Return the config.json of "v2", "v2-lite" or "v3"; a null stays, as q_lora_rank does in V2-Lite's."""
    return {**_COMMON, **DEEPSEEK_MODELS[model], **changes}


def write_deepseek(directory: Path, model: str, *, dtype: str = "BF16", **changes: Any) -> Path:
    """Write a checkpoint of "v2", "v2-lite" or "v3"; `changes` go into config.json."""
    write_random_checkpoint(directory, tied=True, chat_template=CHATML)
    config = deepseek_config(model, **changes)
    (directory / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    write_random_weights(directory, _shapes(config), dtype)
    return directory


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    layers, further = config["num_hidden_layers"], config.get("num_nextn_predict_layers", 0)
    for number in range(layers + further):
        layer = {**_attention(config), **_feed_forward(config, number), "input_layernorm.weight": (hidden,)}
        layer["post_attention_layernorm.weight"] = (hidden,)
        if number >= layers:
            layer |= {
                "enorm.weight": (hidden,),
                "hnorm.weight": (hidden,),
                "eh_proj.weight": (hidden, 2 * hidden),
            }
            layer |= {"embed_tokens.weight": (vocab, hidden), "shared_head.head.weight": (vocab, hidden)}
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return {**shapes, "model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}


def _attention(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, heads, rank = config["hidden_size"], config["num_attention_heads"], config["kv_lora_rank"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    parts: dict[str, tuple[int, ...]] = {
        "kv_a_proj_with_mqa": (rank + rope, hidden),
        "kv_a_layernorm": (rank,),
        "kv_b_proj": (heads * (nope + value), rank),
        "o_proj": (hidden, heads * value),
    }
    if queries := config["q_lora_rank"]:
        parts |= {"q_a_proj": (queries, hidden), "q_a_layernorm": (queries,)}
        parts["q_b_proj"] = (heads * (nope + rope), queries)
    else:
        parts["q_proj"] = (heads * (nope + rope), hidden)
    return {f"self_attn.{name}.weight": shape for name, shape in parts.items()}


def _feed_forward(config: Mapping[str, Any], layer: int) -> dict[str, tuple[int, ...]]:
    hidden, width = config["hidden_size"], config["moe_intermediate_size"]

    def mlp(name: str, rows: int) -> dict[str, tuple[int, ...]]:
        parts = {"gate_proj": (rows, hidden), "up_proj": (rows, hidden), "down_proj": (hidden, rows)}
        return {f"{name}.{part}.weight": shape for part, shape in parts.items()}

    if layer < config["first_k_dense_replace"]:
        return mlp("mlp", config["intermediate_size"])
    experts = config["n_routed_experts"]
    shapes: dict[str, tuple[int, ...]] = {"mlp.gate.weight": (experts, hidden)}
    if config["model_type"] == "deepseek_v3":
        shapes["mlp.gate.e_score_correction_bias"] = (experts,)
    for expert in range(experts):
        shapes |= mlp(f"mlp.experts.{expert}", width)
    return {**shapes, **mlp("mlp.shared_experts", width * config["n_shared_experts"])}
