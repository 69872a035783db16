"""Qwen 3 (dense): GGUF's `qwen3`. A norm on q and on k of every head; the head's length is its own fact."""

from __future__ import annotations

from checkpoint import Finding, ModelConfig
from convert.architectures.base import Family, TensorRule, common_fields, layer_rules, window_findings
from convert.fields import Field

__all__ = ["QWEN3"]

_NORMS = (
    TensorRule("model.layers.{}.self_attn.q_norm.weight", "blk.{}.attn_q_norm.weight", ("head",)),
    TensorRule("model.layers.{}.self_attn.k_norm.weight", "blk.{}.attn_k_norm.weight", ("head",)),
)


def _fields(config: ModelConfig) -> tuple[Field, ...]:
    return common_fields("qwen3", config, head_dim=True)


def _findings(config: ModelConfig) -> tuple[Finding, ...]:
    return window_findings(config, active=bool(config.raw.get("use_sliding_window")))


QWEN3 = Family(
    name="qwen3",
    architectures=("Qwen3ForCausalLM",),
    rules=(*layer_rules(biased=("attn_q", "attn_k", "attn_v")), *_NORMS),
    fields=_fields,
    findings=_findings,
)
