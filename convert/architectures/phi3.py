"""Phi-3, Phi-3.5 and Phi-4 (mini): GGUF's `phi3`. Fused attention and feed-forward stay fused.

For long texts there are two tables of frequency factors (longrope): one up to the original length, one beyond
it, and a factor on attention that follows from both lengths.
"""

from __future__ import annotations

import math
from typing import Any

from checkpoint import ModelConfig
from convert.architectures.base import ComputedTensor, Family, TensorRule, layer_rules
from convert.architectures.values import rotated_part, senseless
from convert.fields import Field, float32, uint32
from errors import ConversionError

__all__ = ["PHI3"]

_LONG = ("longrope", "su", "yarn")


def _fields(config: ModelConfig) -> tuple[Field, ...]:
    original, factor = _original(config), _attention_factor(config)
    fields = [
        uint32("phi3.context_length", config.context_length),
        uint32("phi3.rope.scaling.original_context_length", original),
        uint32("phi3.embedding_length", config.hidden_size),
        uint32("phi3.feed_forward_length", config.intermediate_size),
        uint32("phi3.block_count", config.layers),
        uint32("phi3.attention.head_count", config.heads),
        uint32("phi3.attention.head_count_kv", config.kv_heads),
        float32("phi3.attention.layer_norm_rms_epsilon", config.rms_norm_eps or 1e-5),
        uint32("phi3.rope.dimension_count", _rotated(config)),
        float32("phi3.rope.freq_base", 10000.0 if config.rope_theta is None else config.rope_theta),
        # zero is how llama.cpp tells Phi-4, which has no window, from the others
        uint32("phi3.attention.sliding_window", config.sliding_window or 0),
    ]
    if factor is not None:
        fields.append(float32("phi3.rope.scaling.attn_factor", factor))
    return tuple(fields)


def _rotated(config: ModelConfig) -> int:
    """Return how many dimensions of a head are rotated."""
    return int(rotated_part(config, 1.0) * config.hidden_size) // config.heads


def _original(config: ModelConfig) -> int:
    scaling = config.rope_scaling or {}
    names = "original_max_position_embeddings"
    value = config.raw.get(names, scaling.get(names, config.context_length))
    if type(value) is not int or not 0 < value < 1 << 31:
        raise senseless(names, value, "a positive whole number")
    return value


def _attention_factor(config: ModelConfig) -> float | None:
    """Return the factor on attention; None without scaling. Raises `ConversionError` for another scaling."""
    scaling = config.rope_scaling
    if scaling is None:
        return None
    kind = scaling["rope_type"]
    if kind not in _LONG:
        raise ConversionError(
            f"config.json asks for the RoPE scaling {kind!r}, which llama.cpp does not compute for phi3 "
            "models.",
            hint=f"It computes {', '.join(_LONG)}. Without the scaling the model would answer wrongly.",
        )
    scale = config.context_length / _original(config)
    if scale <= 1.0:
        return 1.0
    if kind == "yarn":
        return 0.1 * math.log(scale) + 1.0
    return math.sqrt(1 + math.log(scale) / math.log(_original(config)))


def _computed(config: ModelConfig) -> tuple[ComputedTensor, ...]:
    if config.rope_scaling is None:
        return ()
    return tuple(
        ComputedTensor(f"rope_factors_{length}.weight", _factors(config, f"{length}_factor"))
        for length in ("long", "short")
    )


def _factors(config: ModelConfig, name: str) -> tuple[float, ...]:
    values: Any = (config.rope_scaling or {}).get(name)
    wanted = _rotated(config) // 2
    numbers = isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    if not numbers or len(values) != wanted:
        raise senseless(f"rope_scaling.{name}", values, f"a list of {wanted} numbers")
    return tuple(map(float, values))


def _rules() -> tuple[TensorRule, ...]:
    cut = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
    layer = "model.layers.{}"
    return (
        *(rule for rule in layer_rules() if not any(name in rule.source for name in cut)),
        TensorRule(f"{layer}.self_attn.qkv_proj.weight", "blk.{}.attn_qkv.weight", ("qkv", "hidden")),
        TensorRule(f"{layer}.mlp.gate_up_proj.weight", "blk.{}.ffn_up.weight", ("2 x ffn", "hidden")),
    )


PHI3 = Family(
    name="phi3",
    architectures=("Phi3ForCausalLM",),
    rules=_rules(),
    fields=_fields,
    computed=_computed,
    sizes=lambda config: {
        "qkv": (config.heads + 2 * config.kv_heads) * config.head_dim,
        "2 x ffn": 2 * config.intermediate_size,
    },
)
