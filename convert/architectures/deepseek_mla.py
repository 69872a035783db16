"""DeepSeek-V2, V2-Lite, V2.5 and DeepSeek-V3, R1: GGUF's `deepseek2`.

Attention keeps one compressed vector for keys and values of all heads (multi-head latent attention).
llama.cpp folds the matrix that expands it into the query and the output: it is cut into the part of the keys,
turned, and the part of the values, and the model then has a single key-value head as long as that vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from checkpoint import Finding, ModelConfig, Rows
from convert.architectures.base import Family, TensorRule, common_fields, layer_rules
from convert.architectures.experts import expert_counts, experts_of, routed_rules
from convert.architectures.values import dense_layers, number_of, senseless, size_of
from convert.fields import Field, boolean, float32, uint32
from convert.rows import cut, turned
from errors import ConversionError

__all__ = ["DEEPSEEK2"]

_V3 = "DeepseekV3ForCausalLM"
_FIXED = {"hidden_act": "silu", "moe_layer_freq": 1, "attention_bias": False, "mlp_bias": False}
_FIXED_V2 = {**_FIXED, "scoring_func": "softmax", "norm_topk_prob": False}
_FIXED_V3 = {**_FIXED, "scoring_func": "sigmoid", "rope_interleave": True, "topk_method": "noaux_tc"}
"""What llama.cpp computes them with; also what an absent key means."""
_GATING = {"softmax": 1, "sigmoid": 2}
# Tuples, for what stands in config.json may be a list.
_METHODS = (None, "greedy", "group_limited_greedy")
_ONE = (None, 1)
_WITHOUT_QUERY_RANK = (26, 27)
"""The numbers of layers of those models whose queries llama.cpp takes to be uncompressed."""


def _is_v3(config: ModelConfig) -> bool:
    return config.architecture == _V3


def _has_query_rank(config: ModelConfig) -> bool:
    return config.raw.get("q_lora_rank") is not None


def _fields(config: ModelConfig) -> tuple[Field, ...]:
    _refuse_variants(config)
    rank, rope = size_of(config, "kv_lora_rank"), size_of(config, "qk_rope_head_dim")
    nope, value = size_of(config, "qk_nope_head_dim"), size_of(config, "v_head_dim")
    own = replace(config, kv_heads=1)
    fields = [
        *common_fields("deepseek2", own, head_dim=False, scalings=("yarn",)),
        *expert_counts("deepseek2", config),
        *_groups(config),
        *_gating(config),
        uint32("deepseek2.attention.key_length", rank + rope),
        uint32("deepseek2.attention.value_length", rank),
        uint32("deepseek2.leading_dense_block_count", dense_layers(config)),
        uint32("deepseek2.vocab_size", config.vocab_size),
        uint32("deepseek2.attention.kv_lora_rank", rank),
        uint32("deepseek2.attention.key_length_mla", nope + rope),
        uint32("deepseek2.attention.value_length_mla", value),
        uint32("deepseek2.expert_feed_forward_length", size_of(config, "moe_intermediate_size")),
        uint32("deepseek2.expert_shared_count", size_of(config, "n_shared_experts")),
        uint32("deepseek2.rope.dimension_count", rope),
    ]
    if _has_query_rank(config):
        fields.append(uint32("deepseek2.attention.q_lora_rank", size_of(config, "q_lora_rank")))
    if _is_v3(config) or config.raw.get("routed_scaling_factor") is not None:
        scale = number_of(config, "routed_scaling_factor")
        fields.append(float32("deepseek2.expert_weights_scale", scale))
    if config.raw.get("norm_topk_prob"):
        fields.append(boolean("deepseek2.expert_weights_norm", True))
    if config.rope_scaling is not None:
        # llama.cpp divides it by that 0.1 again.
        scale = 0.1 * float(config.rope_scaling["mscale_all_dim"])
        fields.append(float32("deepseek2.rope.scaling.yarn_log_multiplier", scale))
    return tuple(fields)


def _groups(config: ModelConfig) -> tuple[Field, ...]:
    """Return the keys that say of which groups of experts a token chooses."""
    if not _is_v3(config) and config.raw.get("n_group") is None:
        return ()
    groups, used = size_of(config, "n_group"), size_of(config, "topk_group")
    if experts_of(config) % groups or used > groups:
        raise senseless("n_group", groups, f"a divisor of {experts_of(config)} experts, {used} or more")
    return (
        uint32("deepseek2.expert_group_count", groups),
        uint32("deepseek2.expert_group_used_count", used),
    )


def _gating(config: ModelConfig) -> tuple[Field, ...]:
    """Return how scores become probabilities; V3 has but one way, and its key is written also where
    config.json is silent, which llama.cpp would take for softmax."""
    if config.raw.get("scoring_func") is None and not _is_v3(config):
        return ()
    return (uint32("deepseek2.expert_gating_func", _GATING["sigmoid" if _is_v3(config) else "softmax"]),)


def _refuse_variants(config: ModelConfig) -> None:
    for name, fixed in (_FIXED_V3 if _is_v3(config) else _FIXED_V2).items():
        value = config.raw.get(name)
        if value is not None and value != fixed:
            raise _not_computed(f"{name} = {str(value)[:60]!r}", f"with {fixed}")
    if not _is_v3(config):
        _refuse_other_groups(config)
    if _has_query_rank(config) is (config.layers in _WITHOUT_QUERY_RANK):
        raise _not_computed(
            f"{config.layers} layers and q_lora_rank = {config.raw.get('q_lora_rank')}",
            "with compressed queries (q_lora_rank), but those of 26 or 27 layers without",
        )
    scaling = config.rope_scaling
    if scaling is not None and scaling["rope_type"] == "yarn":
        factors = [scaling.get(name) for name in ("mscale", "mscale_all_dim")]
        if factors[0] != factors[1] or type(factors[0]) not in {int, float} or not factors[0]:
            raise _not_computed(
                f"the yarn factors mscale = {factors[0]} and mscale_all_dim = {factors[1]}",
                "with two that are equal",
            )
        if scaling.get("attention_factor") not in _ONE:
            raise _not_computed(
                f"attention_factor = {scaling['attention_factor']}", "with what follows from mscale"
            )


def _refuse_other_groups(config: ModelConfig) -> None:
    method, groups = config.raw.get("topk_method"), config.raw.get("n_group")
    if method not in _METHODS:
        raise _not_computed(f"topk_method = {str(method)[:60]!r}", "with greedy or group_limited_greedy")
    if method != "group_limited_greedy" and groups not in _ONE:
        raise _not_computed(f"topk_method = {method!r} and n_group = {groups}", "so with one group")


def _not_computed(what: str, how: str) -> ConversionError:
    return ConversionError(
        f"config.json has {what}; llama.cpp computes every such DeepSeek {how}.",
        hint="Serve this model with vLLM.",
    )


def _findings(config: ModelConfig) -> tuple[Finding, ...]:
    if config.raw.get("topk_method") != "group_limited_greedy" or config.raw.get("n_group") in _ONE:
        return ()
    return (
        Finding(
            "expert-groups-by-two",
            "warning",
            "The model chooses groups of experts by the best expert of each; llama.cpp, which has only "
            "DeepSeek-V3's way, by the best two together. Some tokens pass through other experts, and "
            "answers differ a little.",
            "Serve it with vLLM where that matters.",
        ),
    )


def _sizes(config: ModelConfig) -> Mapping[str, int]:
    rank, rope = size_of(config, "kv_lora_rank"), size_of(config, "qk_rope_head_dim")
    nope, value = size_of(config, "qk_nope_head_dim"), size_of(config, "v_head_dim")
    width = size_of(config, "moe_intermediate_size")
    return {
        "q_rank": size_of(config, "q_lora_rank") if _has_query_rank(config) else 0,
        "kv_rank": rank,
        "kv_rank + rope": rank + rope,
        "heads x key": config.heads * (nope + rope),
        "heads x (nope + value)": config.heads * (nope + value),
        "heads x value": config.heads * value,
        "experts": experts_of(config),
        "expert ffn": width,
        "shared ffn": width * size_of(config, "n_shared_experts"),
    }


def _keys(rows: Sequence[Rows], config: ModelConfig) -> Rows:
    """Return (heads, kv_rank, nope): what expands a key, turned so as to fold it into the query."""
    return turned(cut(rows[0], config.heads, 0, size_of(config, "qk_nope_head_dim")))


def _values(rows: Sequence[Rows], config: ModelConfig) -> Rows:
    """Return (heads, value, kv_rank)."""
    nope = size_of(config, "qk_nope_head_dim")
    return cut(rows[0], config.heads, nope, nope + size_of(config, "v_head_dim"))


def _compressed(config: ModelConfig) -> Iterable[int]:
    return range(config.layers if _has_query_rank(config) else 0)


def _uncompressed(config: ModelConfig) -> Iterable[int]:
    return range(0 if _has_query_rank(config) else config.layers)


def _attention() -> Iterable[TensorRule]:
    def rule(source: str, target: str, *shape: str) -> TensorRule:
        return TensorRule(f"model.layers.{{}}.self_attn.{source}.weight", f"blk.{{}}.{target}.weight", shape)

    return (
        replace(rule("q_proj", "attn_q", "heads x key", "hidden"), layers=_uncompressed),
        replace(rule("q_a_proj", "attn_q_a", "q_rank", "hidden"), layers=_compressed),
        replace(rule("q_a_layernorm", "attn_q_a_norm", "q_rank"), layers=_compressed),
        replace(rule("q_b_proj", "attn_q_b", "heads x key", "q_rank"), layers=_compressed),
        rule("kv_a_proj_with_mqa", "attn_kv_a_mqa", "kv_rank + rope", "hidden"),
        rule("kv_a_layernorm", "attn_kv_a_norm", "kv_rank"),
        replace(rule("kv_b_proj", "attn_k_b", "heads x (nope + value)", "kv_rank"), make=_keys),
        replace(rule("kv_b_proj", "attn_v_b", "heads x (nope + value)", "kv_rank"), make=_values),
        rule("o_proj", "attn_output", "hidden", "heads x value"),
    )


def _feed_forward(dense: Iterable[TensorRule]) -> Iterable[TensorRule]:
    def sparse(config: ModelConfig) -> range:
        return range(dense_layers(config), config.layers)

    def corrected(config: ModelConfig) -> range:
        return sparse(config) if _is_v3(config) else range(0)

    shared = (
        TensorRule(f"model.layers.{{}}.mlp.shared_experts.{source}_proj.weight", target, shape)
        for source, target, shape in (
            ("gate", "blk.{}.ffn_gate_shexp.weight", ("shared ffn", "hidden")),
            ("up", "blk.{}.ffn_up_shexp.weight", ("shared ffn", "hidden")),
            ("down", "blk.{}.ffn_down_shexp.weight", ("hidden", "shared ffn")),
        )
    )
    bias = "model.layers.{}.mlp.gate.e_score_correction_bias"
    return (
        *(replace(rule, layers=lambda config: range(dense_layers(config))) for rule in dense),
        *(
            replace(rule, layers=sparse)
            for rule in (*routed_rules(("gate_proj", "down_proj", "up_proj"), "mlp", "gate"), *shared)
        ),
        TensorRule(bias, "blk.{}.exp_probs_b.bias", ("experts",), layers=corrected),
    )


def _rules() -> tuple[TensorRule, ...]:
    common = [rule for rule in layer_rules() if ".self_attn." not in rule.source]
    dense = [rule for rule in common if ".mlp." in rule.source]
    return (*(rule for rule in common if rule not in dense), *_attention(), *_feed_forward(dense))


def _appended(config: ModelConfig) -> int:
    """Return how many layers after the last predict the tokens after the next: not used in GGUF."""
    value = config.raw.get("num_nextn_predict_layers", 1 if _is_v3(config) else 0)
    if type(value) is not int or not 0 <= value <= config.layers:
        raise senseless("num_nextn_predict_layers", value, f"a whole number up to {config.layers}")
    return value


DEEPSEEK2 = Family(
    name="deepseek2",
    architectures=("DeepseekV2ForCausalLM", _V3),
    rules=_rules(),
    fields=_fields,
    findings=_findings,
    sizes=_sizes,
    appended=_appended,
)
