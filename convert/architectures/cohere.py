"""Command-R: GGUF's `command-r`. Attention and feed-forward side by side after one norm, scaled logits."""

from __future__ import annotations

from checkpoint import ModelConfig
from convert.architectures.base import Family, TensorRule, layer_rules
from convert.architectures.values import number_of
from convert.fields import Field, float32, string, uint32
from errors import ConversionError

__all__ = ["COMMAND_R"]

_WITH_NORMS = 64


def _fields(config: ModelConfig) -> tuple[Field, ...]:
    raw = config.raw
    if config.rope_scaling is not None:
        raise ConversionError(
            f"config.json asks for the RoPE scaling {config.rope_scaling['rope_type']!r}, which llama.cpp "
            "does not compute for command-r models.",
            hint="Without the scaling the model would answer wrongly.",
        )
    if bool(raw.get("use_qk_norm")) != (config.layers >= _WITH_NORMS):
        raise ConversionError(
            f"config.json says use_qk_norm: {bool(raw.get('use_qk_norm'))} for {config.layers} layers; "
            f"llama.cpp expects norms on q and k in command-r models of {_WITH_NORMS} layers or more, and "
            "only there.",
            hint="Serve this model with vLLM.",
        )
    name = "command-r"
    # max_position_embeddings is a limit of the code; model_max_length is what the model was trained for
    trained = raw.get("model_max_length")
    context = trained if type(trained) is int and 0 < trained < 1 << 31 else config.context_length
    return (
        uint32(f"{name}.block_count", config.layers),
        uint32(f"{name}.context_length", context),
        uint32(f"{name}.embedding_length", config.hidden_size),
        uint32(f"{name}.feed_forward_length", config.intermediate_size),
        uint32(f"{name}.attention.head_count", config.heads),
        uint32(f"{name}.attention.head_count_kv", config.kv_heads),
        float32(f"{name}.rope.freq_base", 10000.0 if config.rope_theta is None else config.rope_theta),
        float32(f"{name}.attention.layer_norm_epsilon", number_of(config, "layer_norm_eps", 1e-5)),
        float32(f"{name}.logit_scale", number_of(config, "logit_scale", 0.0625)),
        string(f"{name}.rope.scaling.type", "none"),
    )


def _norm(part: str, heads: str) -> TensorRule:
    source = f"model.layers.{{}}.self_attn.{part}_norm.weight"
    return TensorRule(source, f"blk.{{}}.attn_{part}_norm.weight", (heads, "head"), required=False)


COMMAND_R = Family(
    name="command-r",
    architectures=("CohereForCausalLM",),
    rules=(
        *(rule for rule in layer_rules() if "post_attention_layernorm" not in rule.source),
        _norm("q", "heads"),
        _norm("k", "kv heads"),
    ),
    fields=_fields,
    sizes=lambda config: {"heads": config.heads, "kv heads": config.kv_heads},
)
