"""Mixtures of experts: Mixtral (GGUF's `llama` with experts), Qwen 1.5/2 MoE (`qwen2moe`), Qwen 3 MoE
(`qwen3moe`).

A router chooses a few experts for each token; the tensors of all experts of a layer are one stack.
"""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint import Finding, ModelConfig
from convert.architectures.base import Family, TensorRule, common_fields, layer_rules, window_findings
from convert.architectures.values import size_of
from convert.fields import Field, uint32
from errors import ConversionError

__all__ = ["MIXTRAL", "QWEN2_MOE", "QWEN3_MOE", "expert_counts", "experts_of", "routed_rules"]

_LAYER, _TO = "model.layers.{}", "blk.{}"


def experts_of(config: ModelConfig) -> int:
    """Return how many experts a layer has; 0 for a dense model."""
    for name in ("num_local_experts", "num_experts", "n_routed_experts"):
        if config.raw.get(name) is not None:
            return size_of(config, name)
    return 0


def _sizes(config: ModelConfig) -> dict[str, int]:
    raw = config.raw
    sizes = {"experts": experts_of(config), "expert ffn": config.intermediate_size}
    if raw.get("moe_intermediate_size") is not None:
        sizes["expert ffn"] = size_of(config, "moe_intermediate_size")
    if raw.get("shared_expert_intermediate_size") is not None:
        sizes["shared ffn"] = size_of(config, "shared_expert_intermediate_size")
    return sizes


def routed_rules(names: Sequence[str], folder: str, router: str) -> tuple[TensorRule, ...]:
    """Return the rules of router and experts; `names` are those of gate, down and up."""
    gate, down, up = names
    expert = f"{_LAYER}.{folder}.experts.{{expert}}"
    return (
        TensorRule(f"{_LAYER}.{folder}.{router}.weight", f"{_TO}.ffn_gate_inp.weight", ("experts", "hidden")),
        TensorRule(f"{expert}.{gate}.weight", f"{_TO}.ffn_gate_exps.weight", ("expert ffn", "hidden")),
        TensorRule(f"{expert}.{down}.weight", f"{_TO}.ffn_down_exps.weight", ("hidden", "expert ffn")),
        TensorRule(f"{expert}.{up}.weight", f"{_TO}.ffn_up_exps.weight", ("expert ffn", "hidden")),
    )


def _shared() -> tuple[TensorRule, ...]:
    source = f"{_LAYER}.mlp.shared_expert"
    return (
        TensorRule(f"{source}_gate.weight", f"{_TO}.ffn_gate_inp_shexp.weight", (1, "hidden")),
        TensorRule(f"{source}.gate_proj.weight", f"{_TO}.ffn_gate_shexp.weight", ("shared ffn", "hidden")),
        TensorRule(f"{source}.up_proj.weight", f"{_TO}.ffn_up_shexp.weight", ("shared ffn", "hidden")),
        TensorRule(f"{source}.down_proj.weight", f"{_TO}.ffn_down_shexp.weight", ("hidden", "shared ffn")),
    )


def _attention(*, biased: tuple[str, ...] = (), interleaved: bool = False) -> tuple[TensorRule, ...]:
    shared = layer_rules(biased=biased, interleaved=interleaved)
    return tuple(rule for rule in shared if ".mlp." not in rule.source)


def expert_counts(name: str, config: ModelConfig) -> tuple[Field, ...]:
    """Return the keys that say how many experts there are and how many a token uses."""
    used = size_of(config, "num_experts_per_tok")
    if used > experts_of(config):
        raise ConversionError(
            f"config.json asks for {used} experts a token of {experts_of(config)}.",
            hint="Copy config.json from the base model.",
        )
    return (
        uint32(f"{name}.expert_count", experts_of(config)),
        uint32(f"{name}.expert_used_count", used),
    )


def _mixtral_fields(config: ModelConfig) -> tuple[Field, ...]:
    return (
        *common_fields("llama", config, head_dim=config.raw.get("head_dim") is not None),
        *expert_counts("llama", config),
        uint32("llama.vocab_size", config.vocab_size),
        uint32("llama.rope.dimension_count", config.head_dim),
    )


def _qwen_fields(name: str, config: ModelConfig, *, normalized: bool) -> tuple[Field, ...]:
    raw = config.raw
    if raw.get("mlp_only_layers") or raw.get("decoder_sparse_step", 1) != 1:
        raise ConversionError(
            "config.json makes some layers dense (mlp_only_layers, decoder_sparse_step), which llama.cpp "
            f"does not know of {name} models.",
            hint="Serve this model with vLLM.",
        )
    if bool(raw.get("norm_topk_prob", normalized)) is not normalized:
        raise ConversionError(
            f"config.json says norm_topk_prob: {raw.get('norm_topk_prob')}, but llama.cpp always takes "
            f"{normalized} for {name} models.",
            hint="Serve this model with vLLM.",
        )
    fields = [
        *common_fields(name, config, head_dim=raw.get("head_dim") is not None),
        *expert_counts(name, config),
    ]
    for key, source in (
        ("expert_feed_forward_length", "moe_intermediate_size"),
        ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
    ):
        if raw.get(source) is not None:
            fields.append(uint32(f"{name}.{key}", size_of(config, source)))
    return tuple(fields)


def _window(config: ModelConfig) -> tuple[Finding, ...]:
    return window_findings(config, active=bool(config.raw.get("use_sliding_window")))


MIXTRAL = Family(
    name="llama",
    architectures=("MixtralForCausalLM",),
    rules=(*_attention(interleaved=True), *routed_rules(("w1", "w2", "w3"), "block_sparse_moe", "gate")),
    fields=_mixtral_fields,
    findings=lambda config: window_findings(config, active=True),
    sizes=_sizes,
)

_QWEN = routed_rules(("gate_proj", "down_proj", "up_proj"), "mlp", "gate")

QWEN2_MOE = Family(
    name="qwen2moe",
    architectures=("Qwen2MoeForCausalLM",),
    rules=(*_attention(biased=("attn_q", "attn_k", "attn_v")), *_QWEN, *_shared()),
    fields=lambda config: _qwen_fields("qwen2moe", config, normalized=False),
    findings=_window,
    sizes=_sizes,
)

QWEN3_MOE = Family(
    name="qwen3moe",
    architectures=("Qwen3MoeForCausalLM",),
    rules=(
        *_attention(),
        *_QWEN,
        *(
            TensorRule(f"{_LAYER}.self_attn.{part}_norm.weight", f"{_TO}.attn_{part}_norm.weight", ("head",))
            for part in ("q", "k")
        ),
    ),
    fields=lambda config: _qwen_fields("qwen3moe", config, normalized=True),
    findings=_window,
    sizes=_sizes,
)
