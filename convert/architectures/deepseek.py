"""DeepSeek-MoE: GGUF's `deepseek`. Dense layers first, then many small experts beside some that all share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from checkpoint import ModelConfig
from convert.architectures.base import Family, TensorRule, common_fields, layer_rules
from convert.architectures.experts import expert_counts, experts_of, routed_rules
from convert.architectures.values import dense_layers, size_of
from convert.fields import Field, float32, string, uint32
from errors import ConversionError

__all__ = ["DEEPSEEK"]

_FIXED = {
    "hidden_act": "silu",
    "moe_layer_freq": 1,
    "norm_topk_prob": False,
    "scoring_func": "softmax",
    "attention_bias": False,
}
"""What llama.cpp computes every DeepSeek-MoE with; also what an absent key means."""


def _fields(config: ModelConfig) -> tuple[Field, ...]:
    for name, fixed in _FIXED.items():
        value = config.raw.get(name)
        if value is not None and value != fixed:
            raise ConversionError(
                f"config.json has {name} = {str(value)[:60]!r}; llama.cpp computes every DeepSeek-MoE with "
                f"{fixed}.",
                hint="Serve this model with vLLM.",
            )
    if config.heads * config.head_dim != config.hidden_size:
        raise ConversionError(
            f"config.json has {config.heads} heads of {config.head_dim}, which are not its hidden_size of "
            f"{config.hidden_size}, as llama.cpp takes for granted of DeepSeek-MoE.",
            hint="Serve this model with vLLM.",
        )
    # 1 is softmax; the stock converter writes it only where config.json names the function.
    named = config.raw.get("scoring_func") is not None
    return (
        *common_fields("deepseek", config, head_dim=config.raw.get("head_dim") is not None, scalings=()),
        *expert_counts("deepseek", config),
        *((uint32("deepseek.expert_gating_func", 1),) if named else ()),
        uint32("deepseek.rope.dimension_count", config.head_dim),
        string("deepseek.rope.scaling.type", "none"),
        uint32("deepseek.leading_dense_block_count", dense_layers(config)),
        uint32("deepseek.vocab_size", config.vocab_size),
        uint32("deepseek.expert_feed_forward_length", size_of(config, "moe_intermediate_size")),
        float32("deepseek.expert_weights_scale", 1.0),
        uint32("deepseek.expert_shared_count", size_of(config, "n_shared_experts")),
    )


def _sizes(config: ModelConfig) -> Mapping[str, int]:
    width = size_of(config, "moe_intermediate_size")
    shared = width * size_of(config, "n_shared_experts")
    return {"experts": experts_of(config), "expert ffn": width, "shared ffn": shared}


def _rules() -> tuple[TensorRule, ...]:
    def dense(config: ModelConfig) -> range:
        return range(dense_layers(config))

    def sparse(config: ModelConfig) -> range:
        return range(dense_layers(config), config.layers)

    shared = [
        TensorRule(f"model.layers.{{}}.mlp.shared_experts.{source}_proj.weight", target, shape)
        for source, target, shape in (
            ("gate", "blk.{}.ffn_gate_shexp.weight", ("shared ffn", "hidden")),
            ("up", "blk.{}.ffn_up_shexp.weight", ("shared ffn", "hidden")),
            ("down", "blk.{}.ffn_down_shexp.weight", ("hidden", "shared ffn")),
        )
    ]
    routed = routed_rules(("gate_proj", "down_proj", "up_proj"), "mlp", "gate")
    return (
        *(
            replace(rule, layers=dense) if ".mlp." in rule.source else rule
            for rule in layer_rules(interleaved=True)
        ),
        *(replace(rule, layers=sparse) for rule in (*routed, *shared)),
    )


DEEPSEEK = Family(
    name="deepseek",
    architectures=("DeepseekForCausalLM",),
    rules=_rules(),
    fields=_fields,
    sizes=_sizes,
)
