"""Tiny random checkpoints of the families whose layers are not Llama's: InternLM, Baichuan, MiniCPM, ChatGLM.

Tensor names, shapes and keys are those of the published models; sizes are 256 wide, so that all types fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.checkpoints import CHATML, edit_json, tensor_shapes, write_random_weights
from tests.sentencepiece_model import tiny_pieces, write_model

__all__ = ["BASE", "PIECE_FAMILIES", "config_of", "like_llama", "shapes_of", "write_piece_checkpoint"]

_HIDDEN, _FFN, _HEADS, _KV, _HEAD = 256, 512, 4, 2, 64
_ROWS = 320
_LONG = {"rope_type": "longrope", "short_factor": [1.0] * 32, "long_factor": [1.5] * 32}
BASE: Mapping[str, Any] = {
    "hidden_size": _HIDDEN,
    "intermediate_size": _FFN,
    "num_hidden_layers": 2,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _KV,
    "vocab_size": _ROWS,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_OWN: Mapping[str, Mapping[str, Any]] = {
    "LlamaForCausalLM": {"model_type": "llama", "head_dim": _HEAD},
    "InternLMForCausalLM": {
        "model_type": "internlm",
        "bias": True,
        "num_key_value_heads": 4,
        "head_dim": _HEAD,
        "rms_norm_eps": 1e-6,
        "rotary": {"base": 10000, "type": "dynamic"},
    },
    "InternLM2ForCausalLM": {
        "model_type": "internlm2",
        "bias": False,
        "rope_theta": 1000000,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
    },
    "InternLM3ForCausalLM": {
        "model_type": "internlm3",
        "bias": False,
        "qkv_bias": True,
        "head_dim": _HEAD,
        "rope_scaling": {"rope_type": "dynamic", "factor": 6.0},
    },
    "BaichuanForCausalLM": {
        "model_type": "baichuan",
        "num_hidden_layers": 32,
        "max_position_embeddings": None,
        "model_max_length": 4096,
        "num_key_value_heads": None,
    },
    "MiniCPMForCausalLM": {
        "model_type": "minicpm",
        "tie_word_embeddings": True,
        "scale_emb": 12,
        "scale_depth": 1.4,
        "dim_model_base": 64,
        "rope_scaling": _LONG,
    },
    "MiniCPM3ForCausalLM": {
        "model_type": "minicpm3",
        "tie_word_embeddings": True,
        "num_key_value_heads": 4,
        "scale_emb": 12,
        "scale_depth": 1.4,
        "dim_model_base": 256,
        "q_lora_rank": 256,
        "kv_lora_rank": 256,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 64,
        "rope_scaling": _LONG,
    },
    "ChatGLMModel": {
        "model_type": "chatglm",
        "num_hidden_layers": None,
        "num_layers": 2,
        "intermediate_size": None,
        "ffn_hidden_size": _FFN,
        "num_key_value_heads": None,
        "multi_query_attention": True,
        "multi_query_group_num": _KV,
        "kv_channels": _HEAD,
        "vocab_size": None,
        "padded_vocab_size": _ROWS,
        "max_position_embeddings": None,
        "seq_length": 8192,
        "rms_norm_eps": None,
        "layernorm_epsilon": 1.5625e-07,
        "rope_theta": None,
        "rope_ratio": 50,
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "rmsnorm": True,
    },
}
PIECE_FAMILIES = tuple(_OWN)
"""The architectures that `write_piece_checkpoint` writes."""


def config_of(architecture: str, **changes: Any) -> dict[str, Any]:
    """Return a config.json; None removes a key."""
    values = {"architectures": [architecture], **BASE, **_OWN[architecture], **changes}
    return {key: value for key, value in values.items() if value is not None}


def write_piece_checkpoint(
    directory: Path, architecture: str, *, tokenizer: Mapping[str, Any] | None = None, **changes: Any
) -> Path:
    """Write a checkpoint of `architecture` whose tokenizer is a tokenizer.model alone; `changes` go into
    config.json, `tokenizer` into tokenizer_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    config = config_of(architecture, **changes)
    (directory / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    edit_json(directory / "generation_config.json", eos_token_id=2)
    pieces = tiny_pieces()
    if architecture.startswith("InternLM2"):
        unused = range(_ROWS - len(pieces))
        pieces += [(f"[UNUSED_TOKEN_{number}]", 0.0, 1 + 3 * (number % 2)) for number in unused]
    write_model(directory / "tokenizer.model", pieces)
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    values = {**named, "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "chat_template": CHATML}
    if architecture == "ChatGLMModel":
        values = {"tokenizer_class": "ChatGLMTokenizer", "chat_template": CHATML}
    elif architecture.startswith("InternLM2"):
        values["tokenizer_class"] = "InternLM2Tokenizer"
        values["added_tokens_decoder"] = _decoder(_ROWS - 5)
    else:
        values["added_tokens_decoder"] = _decoder(len(pieces))
    values |= tokenizer or {}
    (directory / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")
    write_random_weights(directory, shapes_of(architecture, config))
    return directory


def _decoder(size: int) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "0": {"content": "<unk>", **flags, "special": True},
        str(size): {"content": "<|im_start|>", **flags, "special": True},
        str(size + 1): {"content": "<|im_end|>", **flags, "special": True},
        str(size + 2): {"content": "a▁tool", **flags, "special": False},
    }


def shapes_of(architecture: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return tensor name -> shape of a whole model, in its order."""
    layers = config.get("num_hidden_layers") or config["num_layers"]
    parts = _PARTS.get(architecture)
    if parts is None:
        return like_llama(config)
    top, layer, prefix = parts
    shapes = {name: shape for name, shape in top.items() if "{head}" not in name}
    for number in range(layers):
        shapes |= {f"{prefix}.{number}.{name}.weight": shape for name, shape in layer.items()}
        if architecture == "ChatGLMModel":
            shapes[f"{prefix}.{number}.self_attention.query_key_value.bias"] = (512,)
    heads = {name.replace("{head}", ""): shape for name, shape in top.items() if "{head}" in name}
    return shapes if config.get("tie_word_embeddings") else shapes | heads


_EMBEDDING, _NORM = (_ROWS, _HIDDEN), (_HIDDEN,)
_TOP = {
    "model.embed_tokens.weight": _EMBEDDING,
    "model.norm.weight": _NORM,
    "{head}lm_head.weight": _EMBEDDING,
}
_MLP = {
    "input_layernorm": _NORM,
    "post_attention_layernorm": _NORM,
    "mlp.gate_proj": (_FFN, _HIDDEN),
    "mlp.up_proj": (_FFN, _HIDDEN),
    "mlp.down_proj": (_HIDDEN, _FFN),
}
_PARTS: Mapping[str, tuple[Mapping[str, tuple[int, ...]], Mapping[str, tuple[int, ...]], str]] = {
    "InternLM2ForCausalLM": (
        {
            "model.tok_embeddings.weight": _EMBEDDING,
            "model.norm.weight": _NORM,
            "{head}output.weight": _EMBEDDING,
        },
        {
            "attention.wqkv": (512, _HIDDEN),
            "attention.wo": (_HIDDEN, _HIDDEN),
            "feed_forward.w1": (_FFN, _HIDDEN),
            "feed_forward.w3": (_FFN, _HIDDEN),
            "feed_forward.w2": (_HIDDEN, _FFN),
            "attention_norm": _NORM,
            "ffn_norm": _NORM,
        },
        "model.layers",
    ),
    "BaichuanForCausalLM": (
        _TOP,
        {**_MLP, "self_attn.W_pack": (768, _HIDDEN), "self_attn.o_proj": (_HIDDEN, _HIDDEN)},
        "model.layers",
    ),
    "MiniCPM3ForCausalLM": (
        _TOP,
        {
            **_MLP,
            "self_attn.q_a_proj": (256, _HIDDEN),
            "self_attn.q_a_layernorm": (256,),
            "self_attn.q_b_proj": (4 * 96, 256),
            "self_attn.kv_a_proj_with_mqa": (256 + 64, _HIDDEN),
            "self_attn.kv_a_layernorm": (256,),
            "self_attn.kv_b_proj": (4 * (32 + 64), 256),
            "self_attn.o_proj": (_HIDDEN, 4 * 64),
        },
        "model.layers",
    ),
    "ChatGLMModel": (
        {
            "transformer.embedding.word_embeddings.weight": _EMBEDDING,
            "transformer.rotary_pos_emb.inv_freq": (16,),
            "transformer.encoder.final_layernorm.weight": _NORM,
            "{head}transformer.output_layer.weight": _EMBEDDING,
        },
        {
            "input_layernorm": _NORM,
            "self_attention.query_key_value": (512, _HIDDEN),
            "self_attention.dense": (_HIDDEN, _HIDDEN),
            "post_attention_layernorm": _NORM,
            "mlp.dense_h_to_4h": (2 * _FFN, _HIDDEN),
            "mlp.dense_4h_to_h": (_HIDDEN, _FFN),
        },
        "transformer.encoder.layers",
    ),
}


def like_llama(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return tensor name -> shape where the layers are Llama's."""
    return tensor_shapes(
        "Qwen2ForCausalLM" if config.get("qkv_bias") else "LlamaForCausalLM",
        hidden=_HIDDEN,
        layers=config["num_hidden_layers"],
        heads=_HEADS,
        kv_heads=config["num_key_value_heads"],
        intermediate=_FFN,
        vocab=_ROWS,
        tied=config["tie_word_embeddings"],
        bias=bool(config.get("bias")),
    )
