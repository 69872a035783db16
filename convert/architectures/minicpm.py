"""MiniCPM (1, 2, 4) and MiniCPM 3: GGUF's `minicpm` and `minicpm3`.

A Llama that scales embedding, residuals and logits; MiniCPM 3 compresses keys and values (multi-head latent
attention). Both may have longrope: two tables of frequency factors, for texts up to the original length and
beyond it.
"""

from __future__ import annotations

import math
from typing import Any

from checkpoint import ModelConfig
from convert.architectures.base import (
    ComputedTensor,
    Family,
    TensorRule,
    common_fields,
    layer_rules,
)
from convert.architectures.values import number_of, size_of
from convert.fields import Field, float32, string, uint32
from errors import ConversionError

__all__ = ["MINICPM", "MINICPM3"]


def _fields(config: ModelConfig) -> tuple[Field, ...]:
    _refuse_variants(config)
    scalings = ("linear", "yarn", "dynamic", "longrope", "su")
    plain = common_fields(
        "minicpm", config, head_dim=config.raw.get("head_dim") is not None, scalings=scalings
    )
    return (
        *plain,
        *_longrope("minicpm", config),
        float32("minicpm.embedding_scale", number_of(config, "scale_emb")),
        float32("minicpm.residual_scale", number_of(config, "scale_depth") / config.layers**0.5),
        float32("minicpm.logit_scale", config.hidden_size / number_of(config, "dim_model_base")),
    )


def _refuse_variants(config: ModelConfig) -> None:
    activation = config.raw.get("hidden_act", "silu")
    if activation != "silu":
        raise ConversionError(
            f"config.json has hidden_act = {str(activation)[:60]!r}; llama.cpp computes MiniCPM with silu.",
            hint="Serve this model with vLLM.",
        )
    if config.raw.get("num_experts"):
        raise ConversionError(
            "config.json says num_experts: MiniCPM models with experts cannot be converted.",
            hint="Serve this model with vLLM.",
        )


def _longrope(name: str, config: ModelConfig) -> tuple[Field, ...]:
    """Return the keys of longrope; where the context was extended, also from which length and by how much
    attention is scaled, which the stock converter leaves out."""
    scaling = config.rope_scaling
    if scaling is None or scaling["rope_type"] not in {"longrope", "su"}:
        return ()
    fields = [] if name == "minicpm3" else [string(f"{name}.rope.scaling.type", "longrope")]
    original = scaling.get("original_max_position_embeddings") or config.raw.get(
        "original_max_position_embeddings"
    )
    if type(original) is int and 1 < original < config.context_length:
        grown = math.log(config.context_length / original) / math.log(original)
        fields.append(uint32(f"{name}.rope.scaling.original_context_length", original))
        fields.append(float32(f"{name}.rope.scaling.attn_factor", math.sqrt(1 + grown)))
    return tuple(fields)


def _rotated(config: ModelConfig) -> int:
    return (
        size_of(config, "qk_rope_head_dim")
        if config.architecture in MINICPM3.architectures
        else (config.head_dim)
    )


def _factors(config: ModelConfig) -> tuple[ComputedTensor, ...]:
    scaling = config.rope_scaling or {}
    if scaling.get("rope_type") not in {"longrope", "su"}:
        return ()
    wanted = _rotated(config) // 2
    return tuple(
        ComputedTensor(f"rope_factors_{kind}.weight", _table(scaling.get(f"{kind}_factor"), kind, wanted))
        for kind in ("long", "short")
    )


def _table(values: Any, kind: str, wanted: int) -> tuple[float, ...]:
    sound = isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    if not sound or len(values) != wanted:
        raise ConversionError(
            f"config.json's longrope scaling has a {kind}_factor that is not a list of {wanted} numbers.",
            hint="Compare the file with the base model's.",
        )
    return tuple(float(value) for value in values)


MINICPM = Family(
    name="minicpm",
    architectures=("MiniCPMForCausalLM",),
    rules=layer_rules(interleaved=True),
    fields=_fields,
    computed=_factors,
)

_FIXED = {"scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 256.0}
"""What llama.cpp computes every MiniCPM 3 with."""
_SIZES = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim")


def _fields3(config: ModelConfig) -> tuple[Field, ...]:
    _refuse_variants(config)
    for name, fixed in _FIXED.items():
        if number_of(config, name) != fixed:
            raise ConversionError(
                f"config.json has {name} = {config.raw[name]}; llama.cpp computes every MiniCPM 3 with "
                f"{fixed:g}.",
                hint="Serve this model with vLLM.",
            )
    scaling = config.rope_scaling
    if scaling is not None and scaling["rope_type"] not in {"longrope", "su"}:
        raise ConversionError(
            f"config.json asks for the RoPE scaling {scaling['rope_type']!r}, which llama.cpp does not "
            "compute for minicpm3 models.",
            hint="It computes longrope. Without the scaling the model would answer wrongly.",
        )
    nope, rope = size_of(config, "qk_nope_head_dim"), size_of(config, "qk_rope_head_dim")
    theta = config.rope_theta
    return (
        uint32("minicpm3.context_length", config.context_length),
        uint32("minicpm3.embedding_length", config.hidden_size),
        uint32("minicpm3.block_count", config.layers),
        uint32("minicpm3.feed_forward_length", config.intermediate_size),
        uint32("minicpm3.attention.head_count", config.heads),
        uint32("minicpm3.attention.head_count_kv", config.kv_heads),
        float32(
            "minicpm3.attention.layer_norm_rms_epsilon",
            1e-6 if config.rms_norm_eps is None else config.rms_norm_eps,
        ),
        uint32("minicpm3.vocab_size", config.vocab_size),
        uint32("minicpm3.attention.q_lora_rank", size_of(config, "q_lora_rank")),
        uint32("minicpm3.attention.kv_lora_rank", size_of(config, "kv_lora_rank")),
        uint32("minicpm3.attention.key_length", nope + rope),
        uint32("minicpm3.rope.dimension_count", rope),
        # Not written by the stock converter; llama.cpp's own value is 10000.
        *(() if theta in {None, 10000.0} else (float32("minicpm3.rope.freq_base", theta or 0.0),)),
        *_longrope("minicpm3", config),
    )


def _sizes3(config: ModelConfig) -> dict[str, int]:
    q_rank, kv_rank, nope, rope = (size_of(config, name) for name in _SIZES)
    value = config.raw.get("v_head_dim") or config.hidden_size // config.heads
    return {
        "q_rank": q_rank,
        "kv_rank": kv_rank,
        "kv_rank + rope": kv_rank + rope,
        "heads x key": config.heads * (nope + rope),
        "heads x (nope + value)": config.heads * (nope + value),
        "heads x value": config.heads * value,
    }


def _rules3() -> tuple[TensorRule, ...]:
    own = ("attn_q.", "attn_k.", "attn_v.", "attn_output.")
    shared = [rule for rule in layer_rules() if not rule.target.removeprefix("blk.{}.").startswith(own)]
    parts = (
        ("q_a_proj", "attn_q_a", ("q_rank", "hidden")),
        ("q_a_layernorm", "attn_q_a_norm", ("q_rank",)),
        ("q_b_proj", "attn_q_b", ("heads x key", "q_rank")),
        ("kv_a_proj_with_mqa", "attn_kv_a_mqa", ("kv_rank + rope", "hidden")),
        ("kv_a_layernorm", "attn_kv_a_norm", ("kv_rank",)),
        ("kv_b_proj", "attn_kv_b", ("heads x (nope + value)", "kv_rank")),
        ("o_proj", "attn_output", ("hidden", "heads x value")),
    )
    return (
        *shared,
        *(
            TensorRule(f"model.layers.{{}}.self_attn.{source}.weight", f"blk.{{}}.{target}.weight", shape)
            for source, target, shape in parts
        ),
    )


MINICPM3 = Family(
    name="minicpm3",
    architectures=("MiniCPM3ForCausalLM",),
    rules=_rules3(),
    fields=_fields3,
    computed=_factors,
    sizes=_sizes3,
)
