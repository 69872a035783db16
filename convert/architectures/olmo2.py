"""OLMo 2: GGUF's `olmo2`. Norms stand after attention and feed-forward, and over all heads of q and k."""

from __future__ import annotations

from checkpoint import ModelConfig
from convert.architectures.base import Family, TensorRule, common_fields, layer_rules
from convert.fields import Field

__all__ = ["OLMO2"]

_NORMS = {
    "post_attention_layernorm": ("post_attention_norm", "hidden"),
    "post_feedforward_layernorm": ("post_ffw_norm", "hidden"),
    "self_attn.q_norm": ("attn_q_norm", "q"),
    "self_attn.k_norm": ("attn_k_norm", "kv"),
}


def _fields(config: ModelConfig) -> tuple[Field, ...]:
    return common_fields("olmo2", config, head_dim=config.raw.get("head_dim") is not None)


OLMO2 = Family(
    name="olmo2",
    architectures=("Olmo2ForCausalLM",),
    rules=(
        *(rule for rule in layer_rules() if not rule.source.endswith("layernorm.weight")),
        *(
            TensorRule(f"model.layers.{{}}.{source}.weight", f"blk.{{}}.{target}.weight", (size,))
            for source, (target, size) in _NORMS.items()
        ),
    ),
    fields=_fields,
)
