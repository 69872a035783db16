"""Qwen 2 and 2.5: GGUF's `qwen2`. Biases on q, k and v."""

from __future__ import annotations

from checkpoint import Finding, ModelConfig
from convert.architectures.base import Family, common_fields, layer_rules, window_findings
from convert.fields import Field
from errors import ConversionError

__all__ = ["QWEN2"]


def _fields(config: ModelConfig) -> tuple[Field, ...]:
    if config.heads * config.head_dim != config.hidden_size:
        raise ConversionError(
            f"config.json says {config.heads} heads of {config.head_dim} for a hidden size of "
            f"{config.hidden_size}; llama.cpp takes only Qwen2 models whose heads fill the hidden size.",
            hint="Serve this model with vLLM.",
        )
    return common_fields("qwen2", config, head_dim=config.raw.get("head_dim") is not None)


def _findings(config: ModelConfig) -> tuple[Finding, ...]:
    return window_findings(config, active=bool(config.raw.get("use_sliding_window")))


QWEN2 = Family(
    name="qwen2",
    architectures=("Qwen2ForCausalLM",),
    rules=layer_rules(biased=("attn_q", "attn_k", "attn_v"), bias_required=True),
    fields=_fields,
    findings=_findings,
)
