"""StarCoder 2: GGUF's `starcoder2`. Layer norms and projections with biases, a feed-forward without gate."""

from __future__ import annotations

from checkpoint import Finding, ModelConfig
from convert.architectures.base import Family, TensorRule, layer_rules, window_findings
from convert.architectures.values import number_of
from convert.fields import Field, float32, uint32
from errors import ConversionError

__all__ = ["STARCODER2"]

_ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")


def _fields(config: ModelConfig) -> tuple[Field, ...]:
    if config.rope_scaling is not None:
        raise ConversionError(
            f"config.json asks for the RoPE scaling {config.rope_scaling['rope_type']!r}, which llama.cpp "
            "does not compute for starcoder2 models.",
            hint="Without the scaling the model would answer wrongly.",
        )
    name = "starcoder2"
    return (
        uint32(f"{name}.block_count", config.layers),
        uint32(f"{name}.context_length", config.context_length),
        uint32(f"{name}.embedding_length", config.hidden_size),
        uint32(f"{name}.feed_forward_length", config.intermediate_size),
        uint32(f"{name}.attention.head_count", config.heads),
        uint32(f"{name}.attention.head_count_kv", config.kv_heads),
        float32(f"{name}.rope.freq_base", 10000.0 if config.rope_theta is None else config.rope_theta),
        float32(f"{name}.attention.layer_norm_epsilon", number_of(config, "norm_epsilon", 1e-5)),
    )


def _findings(config: ModelConfig) -> tuple[Finding, ...]:
    return window_findings(config, active=True)


def _rules() -> tuple[TensorRule, ...]:
    shared = layer_rules(biased=_ATTENTION)
    kept = [rule for rule in shared if ".mlp." not in rule.source]
    norms = [
        TensorRule(rule.source[:-6] + "bias", rule.target[:-6] + "bias", rule.shape)
        for rule in kept
        if rule.target.endswith("_norm.weight")
    ]
    feed_forward = [
        TensorRule(
            f"model.layers.{{}}.mlp.{source}.{part}", f"blk.{{}}.{target}.{part}", shape, part == "weight"
        )
        for source, target, sizes in (
            ("c_fc", "ffn_up", ("ffn", "hidden")),
            ("c_proj", "ffn_down", ("hidden", "ffn")),
        )
        for part, shape in (("weight", sizes), ("bias", sizes[:1]))
    ]
    return (*kept, *norms, *feed_forward)


STARCODER2 = Family(
    name="starcoder2",
    architectures=("Starcoder2ForCausalLM",),
    rules=_rules(),
    fields=_fields,
    findings=_findings,
)
