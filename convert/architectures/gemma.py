"""Gemma, Gemma 2 and Gemma 3 (text): GGUF's `gemma`, `gemma2` and `gemma3`.

Norms are stored as what is added to one; the head is always the embedding. Gemma 2 and 3 have norms after
attention and feed-forward as well, and attend in most layers to a window only; Gemma 2 caps its logits.
"""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint import ModelConfig, Rows
from convert.architectures.base import Family, TensorRule, layer_rules
from convert.architectures.values import number_of
from convert.fields import Field, float32, string, uint32
from convert.rows import plus
from errors import ConversionError

__all__ = ["GEMMA", "GEMMA2", "GEMMA3"]

_LAYER = "model.layers.{}"


def _one_more(rows: Sequence[Rows], _config: ModelConfig) -> Rows:
    return plus(rows[0], 1.0)


def _norm(source: str, target: str, size: str = "hidden") -> TensorRule:
    return TensorRule(f"{source}.weight", f"{target}.weight", (size,), make=_one_more)


_MATRICES = tuple(
    rule for rule in layer_rules() if len(rule.shape) == 2 and not rule.source.startswith("lm_head")
)
_FIRST = (_norm("model.norm", "output_norm"), _norm(f"{_LAYER}.input_layernorm", "blk.{}.attn_norm"))
_AROUND = (
    _norm(f"{_LAYER}.post_attention_layernorm", "blk.{}.post_attention_norm"),
    _norm(f"{_LAYER}.pre_feedforward_layernorm", "blk.{}.ffn_norm"),
    _norm(f"{_LAYER}.post_feedforward_layernorm", "blk.{}.post_ffw_norm"),
)


def _fields(name: str, config: ModelConfig) -> tuple[Field, ...]:
    if not config.tie_word_embeddings:
        raise ConversionError(
            f"config.json says tie_word_embeddings: false, but llama.cpp's {name} models have no head of "
            "their own.",
            hint="Serve this model with vLLM.",
        )
    return (
        uint32(f"{name}.context_length", config.context_length),
        uint32(f"{name}.embedding_length", config.hidden_size),
        uint32(f"{name}.block_count", config.layers),
        uint32(f"{name}.feed_forward_length", config.intermediate_size),
        uint32(f"{name}.attention.head_count", config.heads),
        uint32(f"{name}.attention.head_count_kv", config.kv_heads),
        float32(f"{name}.attention.layer_norm_rms_epsilon", config.rms_norm_eps or 1e-6),
        uint32(f"{name}.attention.key_length", config.head_dim),
        uint32(f"{name}.attention.value_length", config.head_dim),
    )


def _plain_rope(name: str, config: ModelConfig, usual: float) -> None:
    """Refuse a rotation that llama.cpp, which reads no key for it here, would not do."""
    if config.rope_scaling is not None or config.rope_theta not in (None, usual):
        raise ConversionError(
            f"config.json changes RoPE (theta {config.rope_theta}, scaling {config.rope_scaling}), which "
            f"llama.cpp does not know of {name} models.",
            hint="Serve this model with vLLM.",
        )


def _gemma_fields(config: ModelConfig) -> tuple[Field, ...]:
    _plain_rope("gemma", config, 10000.0)
    return _fields("gemma", config)


def _gemma2_fields(config: ModelConfig) -> tuple[Field, ...]:
    _plain_rope("gemma2", config, 10000.0)
    return (
        *_fields("gemma2", config),
        float32("gemma2.attn_logit_softcapping", number_of(config, "attn_logit_softcapping", 50.0)),
        float32("gemma2.final_logit_softcapping", number_of(config, "final_logit_softcapping", 30.0)),
        uint32("gemma2.attention.sliding_window", config.sliding_window or 4096),
    )


def _gemma3_fields(config: ModelConfig) -> tuple[Field, ...]:
    if config.raw.get("attn_logit_softcapping") is not None:
        raise ConversionError(
            "config.json has attn_logit_softcapping, which llama.cpp does not know of gemma3 models.",
            hint="Serve this model with vLLM.",
        )
    fields = [*_fields("gemma3", config)]
    scaling = config.rope_scaling
    if scaling is not None and scaling["rope_type"] != "linear":
        raise ConversionError(
            f"config.json asks for the RoPE scaling {scaling['rope_type']!r}, which llama.cpp does not "
            "compute for gemma3 models.",
            hint="Serve this model with vLLM.",
        )
    if scaling is not None and scaling.get("factor") is not None:
        fields += [
            string("gemma3.rope.scaling.type", "linear"),
            float32("gemma3.rope.scaling.factor", float(scaling["factor"])),
        ]
    fields.append(float32("gemma3.rope.freq_base", config.rope_theta or 1000000.0))
    fields += _window(config)
    if config.raw.get("final_logit_softcapping"):
        cap = number_of(config, "final_logit_softcapping", 30.0)
        fields.append(float32("gemma3.final_logit_softcapping", cap))
    return tuple(fields)


def _window(config: ModelConfig) -> list[Field]:
    """Return the sliding window and the frequency inside it; llama.cpp knows which layers have it."""
    if config.raw.get("sliding_window_pattern") == 1:
        return []
    rope = config.raw.get("rope_parameters")
    inner = rope.get("sliding_attention") if isinstance(rope, dict) else None
    local = inner.get("rope_theta") if isinstance(inner, dict) else config.raw.get("rope_local_base_freq")
    fields = [uint32("gemma3.attention.sliding_window", config.sliding_window or 4096)]
    if isinstance(local, int | float) and not isinstance(local, bool):
        fields.append(float32("gemma3.rope.freq_base_swa", float(local)))
    return fields


GEMMA = Family(
    name="gemma",
    architectures=("GemmaForCausalLM",),
    rules=(*_MATRICES, *_FIRST, _norm(f"{_LAYER}.post_attention_layernorm", "blk.{}.ffn_norm")),
    fields=_gemma_fields,
    ignored=(r"lm_head\.weight",),
)

GEMMA2 = Family(
    name="gemma2",
    architectures=("Gemma2ForCausalLM",),
    rules=(*_MATRICES, *_FIRST, *_AROUND),
    fields=_gemma2_fields,
    ignored=(r"lm_head\.weight",),
)

GEMMA3 = Family(
    name="gemma3",
    architectures=("Gemma3ForCausalLM",),
    rules=(
        *_MATRICES,
        *_FIRST,
        *_AROUND,
        _norm(f"{_LAYER}.self_attn.q_norm", "blk.{}.attn_q_norm", "head"),
        _norm(f"{_LAYER}.self_attn.k_norm", "blk.{}.attn_k_norm", "head"),
    ),
    fields=_gemma3_fields,
    ignored=(r"lm_head\.weight",),
)
