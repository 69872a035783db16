"""What a family of architectures is to the converter: names of tensors, their shapes, and metadata keys.

Knows the parts that families share: the decoder layer of Llama and its relatives, and RoPE scaling. The keys
and the order of the metadata are those of llama.cpp's stock converter. Does not read weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkpoint import Finding, ModelConfig, Rows
from convert.fields import Field, float32, string, uint32
from convert.rows import interleaved, taken
from errors import ConversionError

__all__ = [
    "ComputedTensor",
    "Family",
    "Make",
    "TensorRule",
    "common_fields",
    "interleave_key",
    "interleave_query",
    "layer_rules",
    "sizes",
    "window_findings",
]


Make = Callable[[Sequence[Rows], ModelConfig], Rows]
"""What is done to the stored tensors of a rule: rows in, rows out, nothing read yet."""


@dataclass(frozen=True)
class TensorRule:
    """One tensor of a GGUF file and what it is made of; `{}` in a name is the layer's number.

    Several rules may share a source: a fused tensor that is cut.
    """

    source: str
    """In the checkpoint. With `{expert}` in it, the tensors of all experts of the layer, one stack."""
    target: str
    shape: tuple[str | int, ...]
    """Of each stored tensor: names of `sizes` or of the family's own."""
    required: bool = True
    make: Make | None = None
    """None: as stored (experts: stacked)."""
    layers: Callable[[ModelConfig], Iterable[int]] | None = None
    """Which layers have it; None: all."""


@dataclass(frozen=True)
class ComputedTensor:
    """A float32 vector that follows from the config."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Family:
    """Architectures that become one GGUF architecture."""

    name: str
    """general.architecture."""
    architectures: tuple[str, ...]
    """What config.json calls them."""
    rules: tuple[TensorRule, ...]
    fields: Callable[[ModelConfig], tuple[Field, ...]]
    """Hyper-parameters. Raises `ConversionError` for what llama.cpp cannot do."""
    computed: Callable[[ModelConfig], tuple[ComputedTensor, ...]] = lambda _config: ()
    findings: Callable[[ModelConfig], tuple[Finding, ...]] = lambda _config: ()
    sizes: Callable[[ModelConfig], Mapping[str, int]] = lambda _config: {}
    """Dimensions beyond the common ones; "experts" is the number that `{expert}` counts to."""
    ignored: tuple[str, ...] = ()
    """Regular expressions of whole names of tensors that are left out on purpose."""
    appended: Callable[[ModelConfig], int] = lambda _config: 0
    """How many layers after the last are left out on purpose: those that predict further tokens."""
    head: str = "lm_head.weight"
    """The output matrix in the checkpoint, absent where it is tied to `embedding`."""
    embedding: str = "model.embed_tokens.weight"


def sizes(config: ModelConfig) -> Mapping[str, int]:
    """Return the dimensions that shapes are made of."""
    return {
        "vocab": config.vocab_size,
        "hidden": config.hidden_size,
        "ffn": config.intermediate_size,
        "head": config.head_dim,
        "q": config.heads * config.head_dim,
        "kv": config.kv_heads * config.head_dim,
    }


def layer_rules(
    *, biased: tuple[str, ...] = (), bias_required: bool = False, interleaved: bool = False
) -> tuple[TensorRule, ...]:
    """Return the rules of embedding, layers, final norm and head that all families have.

    `biased` names the projections that may (or must) have a bias; `interleaved` asks for llama's layout of
    q and k.
    """
    rules = [
        TensorRule("model.embed_tokens.weight", "token_embd.weight", ("vocab", "hidden")),
        TensorRule("model.norm.weight", "output_norm.weight", ("hidden",)),
        TensorRule("lm_head.weight", "output.weight", ("vocab", "hidden"), required=False),
        TensorRule("model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", ("hidden",)),
        TensorRule("model.layers.{}.post_attention_layernorm.weight", "blk.{}.ffn_norm.weight", ("hidden",)),
    ]
    for source, target, rows, columns in _PROJECTIONS:
        make = _INTERLEAVED.get(target) if interleaved else None
        name, to = f"model.layers.{{}}.{source}", f"blk.{{}}.{target}"
        rules.append(TensorRule(f"{name}.weight", f"{to}.weight", (rows, columns), make=make))
        if target in biased:
            rules.append(TensorRule(f"{name}.bias", f"{to}.bias", (rows,), bias_required, make))
    return tuple(rules)


_PROJECTIONS = (
    ("self_attn.q_proj", "attn_q", "q", "hidden"),
    ("self_attn.k_proj", "attn_k", "kv", "hidden"),
    ("self_attn.v_proj", "attn_v", "kv", "hidden"),
    ("self_attn.o_proj", "attn_output", "hidden", "q"),
    ("mlp.gate_proj", "ffn_gate", "ffn", "hidden"),
    ("mlp.up_proj", "ffn_up", "ffn", "hidden"),
    ("mlp.down_proj", "ffn_down", "hidden", "ffn"),
)


def interleave_query(rows: Sequence[Rows], config: ModelConfig) -> Rows:
    """Return the rows of q with the halves of each head as neighbouring pairs."""
    return taken(rows[0], interleaved(rows[0].shape[0], config.heads))


def interleave_key(rows: Sequence[Rows], config: ModelConfig) -> Rows:
    """Return the rows of k with the halves of each head as neighbouring pairs."""
    return taken(rows[0], interleaved(rows[0].shape[0], config.kv_heads))


_INTERLEAVED: Mapping[str, Make] = {"attn_q": interleave_query, "attn_k": interleave_key}


def common_fields(
    name: str,
    config: ModelConfig,
    *,
    head_dim: bool,
    scalings: tuple[str, ...] = ("linear", "yarn", "dynamic"),
) -> tuple[Field, ...]:
    """Return the hyper-parameters that all families have, with keys below `name`.

    `head_dim` says whether the length of a head is written out; `scalings` are the RoPE scalings that
    llama.cpp computes for this family. Raises `ConversionError` for any other scaling.
    """
    fields = [
        uint32(f"{name}.block_count", config.layers),
        uint32(f"{name}.context_length", config.context_length),
        uint32(f"{name}.embedding_length", config.hidden_size),
        uint32(f"{name}.feed_forward_length", config.intermediate_size),
        uint32(f"{name}.attention.head_count", config.heads),
        uint32(f"{name}.attention.head_count_kv", config.kv_heads),
        *_rope_scaling(name, config, scalings),
        float32(f"{name}.rope.freq_base", 10000.0 if config.rope_theta is None else config.rope_theta),
        float32(
            f"{name}.attention.layer_norm_rms_epsilon",
            1e-6 if config.rms_norm_eps is None else config.rms_norm_eps,
        ),
    ]
    if head_dim:
        fields.append(uint32(f"{name}.attention.key_length", config.head_dim))
        fields.append(uint32(f"{name}.attention.value_length", config.head_dim))
    return tuple(fields)


def _rope_scaling(name: str, config: ModelConfig, scalings: tuple[str, ...]) -> tuple[Field, ...]:
    scaling = config.rope_scaling
    if scaling is None:
        return ()
    kind = str(scaling["rope_type"]).lower()
    if kind not in scalings:
        raise ConversionError(
            f"config.json asks for the RoPE scaling {kind!r}, which llama.cpp does not compute for {name} "
            "models.",
            hint=f"It computes {', '.join(scalings)}. Without the scaling the model would answer wrongly.",
        )
    if kind not in {"linear", "yarn"} or scaling.get("factor") is None:
        return ()
    key = f"{name}.rope.scaling"
    fields = [string(f"{key}.type", kind), float32(f"{key}.factor", _number(scaling, "factor"))]
    if kind == "yarn":
        _refuse_other_yarn(name, scaling)
        original = scaling.get("original_max_position_embeddings") or config.raw.get(
            "original_max_position_embeddings"
        )
        fields.append(uint32(f"{key}.original_context_length", int(original or config.context_length)))
        for theirs, ours in _YARN:
            if scaling.get(theirs) is not None and not any(field.key == f"{key}.{ours}" for field in fields):
                fields.append(float32(f"{key}.{ours}", _number(scaling, theirs)))
    return tuple(fields)


_YARN = (
    ("extrapolation_factor", "yarn_ext_factor"),
    ("attention_factor", "yarn_attn_factor"),
    ("attn_factor", "yarn_attn_factor"),
    ("beta_fast", "yarn_beta_fast"),
    ("beta_slow", "yarn_beta_slow"),
)


_YARN_FIXED = {"extrapolation_factor": 1.0, "attn_factor": 1.0, "beta_fast": 32.0, "beta_slow": 1.0}
"""What llama.cpp computes with: it reads these keys for two architectures that are not among the families."""


def _refuse_other_yarn(name: str, scaling: Mapping[str, Any]) -> None:
    grown = 0.1 * math.log(max(1.0, _number(scaling, "factor"))) + 1
    # Where mscale is given, the attention factor is a family's own.
    attention = {} if scaling.get("mscale") else {"attention_factor": grown}
    for key, fixed in (*_YARN_FIXED.items(), *attention.items()):
        if scaling.get(key) is not None and abs(_number(scaling, key) - fixed) > 1e-4:
            raise ConversionError(
                f"config.json asks for YaRN with {key} = {scaling[key]}; llama.cpp computes {name} models "
                f"with {fixed:.6g}, whatever the file says.",
                hint="Serve this model with vLLM.",
            )


def _number(scaling: Mapping[str, Any], name: str) -> float:
    value = scaling[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConversionError(
            f"config.json has rope_scaling.{name} = {str(value)[:60]!r}, where a number is needed.",
            hint="Compare the file with the base model's.",
        )
    return float(value)


def window_findings(config: ModelConfig, *, active: bool) -> tuple[Finding, ...]:
    """Return a warning when the model was made for a sliding window, which llama.cpp leaves out."""
    window = config.sliding_window
    if not active or window is None or window >= config.context_length:
        return ()
    return (
        Finding(
            "sliding-window-ignored",
            "warning",
            f"The model attends to the last {window:,} tokens only; llama.cpp attends to all of them, so "
            f"answers may differ in conversations longer than that.",
            f"Serve it with a context of at most {window:,} tokens, or with vLLM.",
        ),
    )
