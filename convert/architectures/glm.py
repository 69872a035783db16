"""ChatGLM 3 and GLM-4: GGUF's `chatglm` (the checkpoints with code of their own, and transformers' Glm) and
`glm4` (the 0414 models, with norms after attention and feed-forward).

Half of every head is rotated, in neighbouring pairs already. Gate and up projection lie in one tensor and
stay so.
"""

from __future__ import annotations

from checkpoint import ModelConfig
from convert.architectures.base import Family, TensorRule, common_fields, layer_rules
from convert.architectures.values import number_of, rotated_part
from convert.fields import Field, float32, uint32
from errors import ConversionError

__all__ = ["CHATGLM", "GLM", "GLM4"]


def _chatglm_fields(config: ModelConfig) -> tuple[Field, ...]:
    """The hyper-parameters under ChatGLM's own names; transformers' names for the same model count as well.

    (The stock converter reads only the former: of a GlmForCausalLM it writes the hidden size as context
    length, 10000 as base frequency and 1e-5 as epsilon, whatever config.json says.)
    """
    if config.rope_scaling is not None:
        raise ConversionError(
            f"config.json asks for the RoPE scaling {config.rope_scaling['rope_type']!r}, which llama.cpp "
            "does not compute for chatglm models.",
            hint="Without the scaling the model would answer wrongly.",
        )
    theta = 10000.0 if config.rope_theta is None else config.rope_theta
    epsilon = number_of(config, "layernorm_epsilon", config.rms_norm_eps or 1e-5)
    return (
        uint32("chatglm.context_length", config.context_length),
        uint32("chatglm.embedding_length", config.hidden_size),
        uint32("chatglm.feed_forward_length", config.intermediate_size),
        uint32("chatglm.block_count", config.layers),
        uint32("chatglm.attention.head_count", config.heads),
        uint32("chatglm.attention.head_count_kv", config.kv_heads),
        float32("chatglm.attention.layer_norm_rms_epsilon", epsilon),
        uint32("chatglm.rope.dimension_count", int(config.head_dim * rotated_part(config, 0.5))),
        float32("chatglm.rope.freq_base", theta * number_of(config, "rope_ratio", 1.0)),
    )


def _remote_fields(config: ModelConfig) -> tuple[Field, ...]:
    raw = config.raw
    odd = [
        name
        for name, usual in (
            ("rmsnorm", True),
            ("add_bias_linear", False),
            ("apply_residual_connection_post_layernorm", False),
            ("post_layer_norm", True),
        )
        if bool(raw.get(name, usual)) is not usual
    ]
    if raw.get("kv_channels", config.head_dim) != config.head_dim:
        odd.append("kv_channels")
    if raw.get("multi_query_attention") is False:
        odd.append("multi_query_attention")
    if odd:
        raise ConversionError(
            f"config.json has {odd[0]} = {raw[odd[0]]}, which llama.cpp does not know of ChatGLM models.",
            hint="Compare the file with the base model's.",
        )
    return _chatglm_fields(config)


def _remote_rules() -> tuple[TensorRule, ...]:
    top, layer, block = "transformer", "transformer.encoder.layers.{}", "blk.{}"
    embedding = f"{top}.embedding.word_embeddings.weight"
    return (
        TensorRule(embedding, "token_embd.weight", ("vocab", "hidden")),
        TensorRule(f"{top}.encoder.final_layernorm.weight", "output_norm.weight", ("hidden",)),
        TensorRule(f"{top}.output_layer.weight", "output.weight", ("vocab", "hidden"), required=False),
        TensorRule(f"{layer}.input_layernorm.weight", f"{block}.attn_norm.weight", ("hidden",)),
        TensorRule(f"{layer}.post_attention_layernorm.weight", f"{block}.ffn_norm.weight", ("hidden",)),
        TensorRule(
            f"{layer}.self_attention.query_key_value.weight", f"{block}.attn_qkv.weight", ("qkv", "hidden")
        ),
        TensorRule(
            f"{layer}.self_attention.query_key_value.bias", f"{block}.attn_qkv.bias", ("qkv",), required=False
        ),
        TensorRule(f"{layer}.self_attention.dense.weight", f"{block}.attn_output.weight", ("hidden", "q")),
        TensorRule(f"{layer}.mlp.dense_h_to_4h.weight", f"{block}.ffn_up.weight", ("2 x ffn", "hidden")),
        TensorRule(f"{layer}.mlp.dense_4h_to_h.weight", f"{block}.ffn_down.weight", ("hidden", "ffn")),
    )


def _sizes(config: ModelConfig) -> dict[str, int]:
    return {
        "2 x ffn": 2 * config.intermediate_size,
        "qkv": (config.heads + 2 * config.kv_heads) * config.head_dim,
    }


def _native_rules() -> tuple[TensorRule, ...]:
    shared = layer_rules(biased=("attn_q", "attn_k", "attn_v"))
    up = TensorRule("model.layers.{}.mlp.gate_up_proj.weight", "blk.{}.ffn_up.weight", ("2 x ffn", "hidden"))
    return (*(rule for rule in shared if not rule.target.endswith(("ffn_gate.weight", "ffn_up.weight"))), up)


CHATGLM = Family(
    name="chatglm",
    architectures=("ChatGLMModel", "ChatGLMForConditionalGeneration"),
    rules=_remote_rules(),
    fields=_remote_fields,
    sizes=_sizes,
    ignored=(r"transformer\.rotary_pos_emb\.inv_freq",),
    head="transformer.output_layer.weight",
    embedding="transformer.embedding.word_embeddings.weight",
)

GLM = Family(
    name="chatglm",
    architectures=("GlmForCausalLM",),
    rules=_native_rules(),
    fields=_chatglm_fields,
    sizes=_sizes,
)

_NORMS = (
    TensorRule(
        "model.layers.{}.post_self_attn_layernorm.weight", "blk.{}.post_attention_norm.weight", ("hidden",)
    ),
    TensorRule("model.layers.{}.post_mlp_layernorm.weight", "blk.{}.post_ffw_norm.weight", ("hidden",)),
)


def _glm4_fields(config: ModelConfig) -> tuple[Field, ...]:
    return (
        *common_fields("glm4", config, head_dim=config.raw.get("head_dim") is not None),
        uint32("glm4.rope.dimension_count", int(config.head_dim * rotated_part(config, 0.5))),
    )


GLM4 = Family(
    name="glm4",
    architectures=("Glm4ForCausalLM",),
    rules=(*_native_rules(), *_NORMS),
    fields=_glm4_fields,
    sizes=_sizes,
)
