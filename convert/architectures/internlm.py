"""InternLM, 2, 2.5 and 3.

InternLM 2 fuses q, k and v: for each key-value head its query heads, then k, then v. InternLM 1 and 3 are
Llamas with biases, and become GGUF's `llama`; the first has its RoPE base under a name of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from checkpoint import ModelConfig, Rows
from convert.architectures.base import Family, Make, TensorRule, common_fields
from convert.architectures.llama import LLAMA
from convert.fields import Field
from convert.rows import interleaved, taken
from errors import ConversionError

__all__ = ["INTERNLM", "INTERNLM2"]

_LAYER, _BLOCK = "model.layers.{}", "blk.{}"


def _fields(config: ModelConfig) -> tuple[Field, ...]:
    if config.heads % config.kv_heads:
        raise ConversionError(
            f"config.json says {config.heads} heads and {config.kv_heads} key-value heads; the heads of an "
            "InternLM 2 are shared out evenly.",
            hint="Compare config.json with the base model's.",
        )
    return common_fields("internlm2", config, head_dim=config.raw.get("head_dim") is not None)


def _cut(part: str) -> Make:
    """Return what takes `part` ("q", "k", "v") out of the fused tensor."""

    def make(rows: Sequence[Rows], config: ModelConfig) -> Rows:
        shared, head = config.heads // config.kv_heads, config.head_dim
        groups = np.arange(rows[0].shape[0]).reshape(config.kv_heads, shared + 2, head)
        if part == "v":
            return taken(rows[0], groups[:, -1].reshape(-1))
        order = (groups[:, :shared] if part == "q" else groups[:, -2]).reshape(-1)
        return taken(rows[0], order[interleaved(len(order), len(order) // head)])

    return make


def _rules() -> tuple[TensorRule, ...]:
    fused = f"{_LAYER}.attention.wqkv.weight"
    return (
        TensorRule("model.tok_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
        TensorRule("model.norm.weight", "output_norm.weight", ("hidden",)),
        TensorRule("output.weight", "output.weight", ("vocab", "hidden"), required=False),
        TensorRule(f"{_LAYER}.attention_norm.weight", f"{_BLOCK}.attn_norm.weight", ("hidden",)),
        TensorRule(f"{_LAYER}.ffn_norm.weight", f"{_BLOCK}.ffn_norm.weight", ("hidden",)),
        *(
            TensorRule(fused, f"{_BLOCK}.attn_{part}.weight", ("qkv", "hidden"), make=_cut(part))
            for part in "qkv"
        ),
        TensorRule(f"{_LAYER}.attention.wo.weight", f"{_BLOCK}.attn_output.weight", ("hidden", "q")),
        TensorRule(f"{_LAYER}.feed_forward.w1.weight", f"{_BLOCK}.ffn_gate.weight", ("ffn", "hidden")),
        TensorRule(f"{_LAYER}.feed_forward.w3.weight", f"{_BLOCK}.ffn_up.weight", ("ffn", "hidden")),
        TensorRule(f"{_LAYER}.feed_forward.w2.weight", f"{_BLOCK}.ffn_down.weight", ("hidden", "ffn")),
    )


def _llama_fields(config: ModelConfig) -> tuple[Field, ...]:
    rotary = config.raw.get("rotary")
    base = rotary.get("base") if isinstance(rotary, dict) else None
    if config.rope_theta is None and isinstance(base, int | float) and 0 < base < 1e30:
        config = replace(config, rope_theta=float(base))
    return LLAMA.fields(config)


INTERNLM = replace(LLAMA, architectures=("InternLMForCausalLM", "InternLM3ForCausalLM"), fields=_llama_fields)

INTERNLM2 = Family(
    name="internlm2",
    architectures=("InternLM2ForCausalLM",),
    rules=_rules(),
    fields=_fields,
    sizes=lambda config: {"qkv": (config.heads + 2 * config.kv_heads) * config.head_dim},
    head="output.weight",
    embedding="model.tok_embeddings.weight",
)
