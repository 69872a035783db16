"""Tiny random checkpoints of families that transformers has classes for: Gemma, Phi-3, Command-R, OLMo 2,
StarCoder 2, and the mixtures of experts of Mixtral and Qwen.

Names and shapes are those that transformers loads without a missing or an unexpected tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints import CHATML, edit_json, write_random_checkpoint, write_safetensors
from tests.sentencepiece_model import tiny_pieces, write_model

__all__ = ["NATIVE_FAMILIES", "REMOTE_FAMILIES", "write_native"]

_HIDDEN, _FFN, _HEADS, _KV, _HEAD, _ROWS = 256, 512, 4, 2, 64, 320
_LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + number / 40 for number in range(32)],
    "long_factor": [2.0 + number for number in range(32)],
}
_GEMMA = {"head_dim": 128, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6}
_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "GemmaForCausalLM": {"model_type": "gemma", **_GEMMA},
    "Gemma2ForCausalLM": {
        "model_type": "gemma2",
        **_GEMMA,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 128,
        "sliding_window": 512,
    },
    "Gemma3ForCausalLM": {
        "model_type": "gemma3_text",
        **_GEMMA,
        "query_pre_attn_scalar": 128,
        "sliding_window": 512,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
    },
    "Phi3ForCausalLM": {
        "model_type": "phi3",
        "original_max_position_embeddings": 1024,
        "rope_scaling": _LONG,
        "sliding_window": 1500,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    },
    "CohereForCausalLM": {
        "model_type": "cohere",
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.0625,
        "model_max_length": 4096,
        "rms_norm_eps": None,
    },
    "Olmo2ForCausalLM": {"model_type": "olmo2", "tie_word_embeddings": False, "rope_theta": 500000.0},
    "Starcoder2ForCausalLM": {
        "model_type": "starcoder2",
        "norm_epsilon": 1e-5,
        "use_bias": True,
        "hidden_act": "gelu_pytorch_tanh",
        "rms_norm_eps": None,
        "rope_theta": 100000.0,
    },
}
_EXPERTS: Mapping[str, Mapping[str, Any]] = {
    "MixtralForCausalLM": {
        "model_type": "mixtral",
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "tie_word_embeddings": False,
    },
    "Qwen2MoeForCausalLM": {
        "model_type": "qwen2_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "shared_expert_intermediate_size": 512,
        "decoder_sparse_step": 1,
        "norm_topk_prob": False,
        "tie_word_embeddings": False,
    },
    "Qwen3MoeForCausalLM": {
        "model_type": "qwen3_moe",
        "head_dim": 64,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 256,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    },
}
_DEEPSEEK: Mapping[str, Mapping[str, Any]] = {
    "DeepseekForCausalLM": {
        "model_type": "deepseek",
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 256,
        "moe_layer_freq": 1,
        "n_routed_experts": 6,
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "num_experts_per_tok": 3,
        "scoring_func": "softmax",
        "tie_word_embeddings": False,
    },
}
NATIVE_FAMILIES = (*_CONFIGS, *_EXPERTS)
"""The architectures that `write_native` writes and transformers has classes for."""
REMOTE_FAMILIES = tuple(_DEEPSEEK)
"""Those that it writes and whose classes came with the checkpoint."""
_PIECES = {"GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Phi3ForCausalLM"}
_NORMS = {
    "GemmaForCausalLM": ("input_layernorm", "post_attention_layernorm"),
    "Phi3ForCausalLM": ("input_layernorm", "post_attention_layernorm"),
    "CohereForCausalLM": ("input_layernorm",),
    "Olmo2ForCausalLM": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "Starcoder2ForCausalLM": ("input_layernorm", "post_attention_layernorm"),
}
_TWO = ("input_layernorm", "post_attention_layernorm")
_FOUR = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def write_native(directory: Path, architecture: str, *, dtype: str = "BF16", **changes: Any) -> Path:
    """Write a checkpoint of `architecture`; `changes` go into config.json, None removes a key."""
    write_random_checkpoint(directory, tied=True, chat_template=CHATML)
    (directory / "model.safetensors").unlink()
    config = {
        "architectures": [architecture],
        "hidden_size": _HIDDEN,
        "intermediate_size": _FFN,
        "num_hidden_layers": 3,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV,
        "vocab_size": _ROWS,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": {"BF16": "bfloat16", "F32": "float32"}[dtype],
        "bos_token_id": 1,
        "eos_token_id": 2,
        **{**_CONFIGS, **_EXPERTS, **_DEEPSEEK}[architecture],
        **changes,
    }
    config = {key: value for key, value in config.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    if architecture in _PIECES:
        (directory / "tokenizer.json").unlink()
        write_model(directory / "tokenizer.model", tiny_pieces())
        edit_json(
            directory / "tokenizer_config.json",
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token=None,
            tokenizer_class="LlamaTokenizer" if "Phi" in architecture else "GemmaTokenizer",
        )
    _write_weights(directory, _shapes(architecture, config), dtype)
    return directory


def _shapes(architecture: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    head = config.get("head_dim", _HEAD)
    query, key = _HEADS * head, _KV * head
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (_ROWS, _HIDDEN)}
    norms = dict.fromkeys(_NORMS.get(architecture, _FOUR if "Gemma" in architecture else _TWO), (_HIDDEN,))
    attention = {"q_proj": (query, _HIDDEN), "k_proj": (key, _HIDDEN), "v_proj": (key, _HIDDEN)}
    feed_forward = {"gate_proj": (_FFN, _HIDDEN), "up_proj": (_FFN, _HIDDEN), "down_proj": (_HIDDEN, _FFN)}
    extra: dict[str, tuple[int, ...]] = {}
    if architecture == "Gemma3ForCausalLM":
        extra = {"q_norm": (head,), "k_norm": (head,)}
    elif architecture == "Olmo2ForCausalLM":
        extra = {"q_norm": (query,), "k_norm": (key,)}
    elif config.get("use_qk_norm"):
        extra = {"q_norm": (_HEADS, head), "k_norm": (_KV, head)}
    if architecture == "Phi3ForCausalLM":
        attention = {"qkv_proj": (query + 2 * key, _HIDDEN)}
        feed_forward = {"gate_up_proj": (2 * _FFN, _HIDDEN), "down_proj": (_HIDDEN, _FFN)}
    if architecture == "Starcoder2ForCausalLM":
        feed_forward = {"c_fc": (_FFN, _HIDDEN), "c_proj": (_HIDDEN, _FFN)}
    if architecture in _EXPERTS:
        feed_forward = {}
        extra |= {"q_norm": (head,), "k_norm": (head,)} if "Qwen3" in architecture else {}
    own: dict[str, tuple[int, ...]] = {"o_proj": (_HIDDEN, query), **attention, **extra}
    layer: dict[str, tuple[int, ...]] = {
        **norms,
        **{f"self_attn.{name}": shape for name, shape in own.items()},
        **{f"mlp.{name}": shape for name, shape in feed_forward.items()},
        **(_expert_shapes(architecture, config) if architecture in _EXPERTS else {}),
    }
    biased = architecture == "Starcoder2ForCausalLM"
    for number in range(config["num_hidden_layers"]):
        sparse = architecture in _DEEPSEEK and number >= config["first_k_dense_replace"]
        for name, shape in (_sparse(layer, config) if sparse else layer).items():
            shapes[f"model.layers.{number}.{name}.weight"] = shape
            if biased or ("Qwen2" in architecture and name[-6:] in {"q_proj", "k_proj", "v_proj"}):
                shapes[f"model.layers.{number}.{name}.bias"] = shape[:1]
    shapes["model.norm.weight"] = (_HIDDEN,)
    if biased:
        shapes["model.norm.bias"] = (_HIDDEN,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (_ROWS, _HIDDEN)
    return shapes


def _sparse(layer: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a layer of DeepSeek-MoE with experts in place of the dense feed-forward."""
    attention = {name: shape for name, shape in layer.items() if not name.startswith("mlp.")}
    shared = config["n_shared_experts"] * config["moe_intermediate_size"]
    return {
        **attention,
        **_expert_shapes("DeepseekForCausalLM", {**config, "num_experts": config["n_routed_experts"]}),
        "mlp.shared_experts.gate_proj": (shared, _HIDDEN),
        "mlp.shared_experts.up_proj": (shared, _HIDDEN),
        "mlp.shared_experts.down_proj": (_HIDDEN, shared),
    }


def _expert_shapes(architecture: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    mixtral = architecture == "MixtralForCausalLM"
    folder, names = ("block_sparse_moe", "w1 w2 w3") if mixtral else ("mlp", "gate_proj down_proj up_proj")
    gate, down, up = names.split()
    width = config.get("moe_intermediate_size", _FFN)
    count = config.get("num_local_experts") or config["num_experts"]
    shapes: dict[str, tuple[int, ...]] = {f"{folder}.gate": (count, _HIDDEN)}
    for expert in range(count):
        prefix = f"{folder}.experts.{expert}"
        shapes[f"{prefix}.{gate}"] = shapes[f"{prefix}.{up}"] = (width, _HIDDEN)
        shapes[f"{prefix}.{down}"] = (_HIDDEN, width)
    if shared := config.get("shared_expert_intermediate_size"):
        shapes["mlp.shared_expert_gate"] = (1, _HIDDEN)
        shapes["mlp.shared_expert.gate_proj"] = shapes["mlp.shared_expert.up_proj"] = (shared, _HIDDEN)
        shapes["mlp.shared_expert.down_proj"] = (_HIDDEN, shared)
    return shapes


def _write_weights(directory: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
    rng = np.random.default_rng(1)
    tensors: dict[str, tuple[str, np.ndarray[Any, Any]]] = {}
    for name, shape in shapes.items():
        values = rng.normal(0, 0.1, shape).astype(np.float32) + (1.0 if name.endswith("norm.weight") else 0)
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        tensors[name] = (dtype, bits if dtype == "BF16" else values)
    write_safetensors(directory / "model.safetensors", tensors)
