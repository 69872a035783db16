"""What llama.cpp computes from our files is what the model computes.

transformers has classes for GLM, GLM-4 and MiniCPM 3. The other families are written as what they are
mathematically, a Llama (or, for ChatGLM 3, a GLM): fused tensors cut, constant factors multiplied into the
weights. Baichuan 13B (ALiBi) has no such equivalent and is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint
from convert import plan_conversion, run_conversion
from tests.checkpoints import write_safetensors
from tests.convert.logits import llamacpp_logits, transformers_logits
from tests.glm_checkpoints import write_glm
from tests.other_families import write_piece_checkpoint

pytestmark = pytest.mark.engines

_Weights = dict[str, np.ndarray[Any, Any]]
_IDS = [5, 17, 300, 260, 261, 262, 17, 44, 280, 291, 5, 6, 300, 17, 263, 270, 1, 299, 30, 31]
_LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + number / 40 for number in range(32)],
    "long_factor": [2.0 + number for number in range(32)],
    "original_max_position_embeddings": 2048,
    "factor": 1.0,  # transformers 5 asks for it
}


def _native(weights: _Weights, config: Mapping[str, Any]) -> tuple[_Weights, dict[str, Any]]:
    return weights, dict(config)


def _llama(config: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    own = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "head_dim": 64, "hidden_act": "silu"}
    return {**config, **own, **changes}


def _biased(weights: _Weights, config: Mapping[str, Any]) -> tuple[_Weights, dict[str, Any]]:
    for number in range(config["num_hidden_layers"]):
        weights.setdefault(f"model.layers.{number}.self_attn.o_proj.bias", np.zeros(256, np.float32))
    return weights, _llama(config, attention_bias=True, mlp_bias=False)


def _internlm2(weights: _Weights, config: Mapping[str, Any]) -> tuple[_Weights, dict[str, Any]]:
    renamed = {
        "model.embed_tokens.weight": weights.pop("model.tok_embeddings.weight"),
        "model.norm.weight": weights.pop("model.norm.weight"),
        "lm_head.weight": weights.pop("output.weight"),
    }
    names = {
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    for name, values in weights.items():
        prefix, rest = name[: len("model.layers.0.")], name[len("model.layers.0.") :].removesuffix(".weight")
        if rest == "attention.wqkv":
            groups = values.reshape(2, 4, 64, 256)
            parts = {"q": groups[:, :2], "k": groups[:, 2], "v": groups[:, 3]}
            for part, cut in parts.items():
                renamed[f"{prefix}self_attn.{part}_proj.weight"] = cut.reshape(-1, 256)
        else:
            renamed[f"{prefix}{names[rest]}.weight"] = values
    return renamed, _llama(config)


def _baichuan(weights: _Weights, config: Mapping[str, Any]) -> tuple[_Weights, dict[str, Any]]:
    for name in [name for name in weights if "W_pack" in name]:
        for part, cut in zip("qkv", np.split(weights.pop(name), 3), strict=True):
            weights[name.replace("W_pack", f"{part}_proj")] = cut
    if "z_loss_weight" in config:
        head = weights["lm_head.weight"]
        weights["lm_head.weight"] = head / np.linalg.norm(head, axis=1, keepdims=True)
    return weights, _llama(config, num_key_value_heads=4, max_position_embeddings=4096)


def _minicpm(weights: _Weights, config: Mapping[str, Any]) -> tuple[_Weights, dict[str, Any]]:
    residual = np.float32(config["scale_depth"] / config["num_hidden_layers"] ** 0.5)
    for name in weights:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = weights[name] * residual
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embedding / np.float32(config["hidden_size"] / config["dim_model_base"])
    weights["model.embed_tokens.weight"] = embedding * np.float32(config["scale_emb"])
    return weights, _llama(config, tie_word_embeddings=False)


def _chatglm(weights: _Weights, config: Mapping[str, Any]) -> tuple[_Weights, dict[str, Any]]:
    names = {
        "transformer.embedding.word_embeddings": "model.embed_tokens",
        "transformer.encoder.final_layernorm": "model.norm",
        "transformer.output_layer": "lm_head",
        "transformer.encoder.layers": "model.layers",
        "self_attention.dense": "self_attn.o_proj",
        "mlp.dense_h_to_4h": "mlp.gate_up_proj",
        "mlp.dense_4h_to_h": "mlp.down_proj",
    }
    made: _Weights = {}
    for name, values in weights.items():
        native = name
        for old, new in names.items():
            native = native.replace(old, new)
        if "query_key_value" in native:
            for part, cut in zip("qkv", np.split(values, [256, 384]), strict=True):
                made[native.replace("self_attention.query_key_value", f"self_attn.{part}_proj")] = cut
        elif "inv_freq" not in native:
            made[native] = values
    own = {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": 4,
        "num_key_value_heads": config["multi_query_group_num"],
        "head_dim": config["kv_channels"],
        "vocab_size": config["padded_vocab_size"],
        "max_position_embeddings": config["seq_length"],
        "rms_norm_eps": config["layernorm_epsilon"],
        "rope_theta": 10000.0 * config["rope_ratio"],
        "partial_rotary_factor": 0.5,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    return made, own


CASES: dict[str, tuple[str, Callable[..., Any], dict[str, Any]]] = {
    "internlm": ("InternLMForCausalLM", _biased, {}),
    "internlm2": ("InternLM2ForCausalLM", _internlm2, {"rope_scaling": None}),
    "internlm3": ("InternLM3ForCausalLM", _biased, {"rope_scaling": None}),
    "baichuan": ("BaichuanForCausalLM", _baichuan, {}),
    "baichuan2": ("BaichuanForCausalLM", _baichuan, {"z_loss_weight": 0}),
    "minicpm": ("MiniCPMForCausalLM", _minicpm, {"rope_scaling": None}),
    "minicpm-longrope": ("MiniCPMForCausalLM", _minicpm, {"rope_scaling": _LONG}),
    "minicpm3": ("MiniCPM3ForCausalLM", _native, {"rope_scaling": None, "v_head_dim": 64}),
    "minicpm3-longrope": ("MiniCPM3ForCausalLM", _native, {"rope_scaling": _LONG, "v_head_dim": 64}),
    "chatglm3": ("ChatGLMModel", _chatglm, {}),
    "glm": ("GlmForCausalLM", _native, {"rope_theta": 500000.0}),
    "glm4": ("Glm4ForCausalLM", _native, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_llamacpp_computes_the_model(case: str, tmp_path: Path) -> None:
    architecture, equivalent, changes = CASES[case]
    write: Callable[..., Path] = write_glm if architecture.startswith("Glm") else write_piece_checkpoint
    directory = write(tmp_path / "model", architecture, **changes)
    ids = [one % 268 for one in _IDS] if architecture.startswith("Glm") else _IDS
    reference = _write_equivalent(directory, tmp_path / "reference", equivalent)
    (file,) = run_conversion(plan_conversion(Checkpoint.open(directory), ["f32"], tmp_path))
    ours, theirs = llamacpp_logits(file.path, ids), transformers_logits(reference, ids)
    assert float(np.abs(theirs).max()) > 0.1
    # Measured: 3e-6 at most, where a wrong base frequency makes a fifth.
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * float(np.abs(theirs).max()))


def _write_equivalent(directory: Path, target: Path, equivalent: Callable[..., Any]) -> Path:
    stored = Checkpoint.open(directory).weights
    weights = {}
    for name in stored.names:
        bits = stored.raw(name)
        weights[name] = (bits.astype(np.uint32) << 16).view(np.float32)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    made, own = equivalent(weights, config)
    target.mkdir()
    (target / "config.json").write_text(json.dumps({**own, "dtype": "float32"}), encoding="utf-8")
    write_safetensors(target / "model.safetensors", {name: ("F32", values) for name, values in made.items()})
    return target
