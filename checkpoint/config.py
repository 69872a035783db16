"""`config.json` and `generation_config.json` as typed facts.

Knows: the spellings of the same fact by model family and by transformers version (4: `torch_dtype`,
`rope_theta`, `rope_scaling`; 5: `dtype`, `rope_parameters`), and the values the field takes for granted.
Does not know which architectures can be converted or served.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint.findings import CheckpointFlaw

__all__ = ["GenerationConfig", "ModelConfig"]

_TIED_BY_DEFAULT = frozenset(
    {
        "bloom",
        "cohere",
        "cohere2",
        "ernie4_5",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "gemma3n",
    }
    | {
        "gemma3n_text",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "lfm2",
        "minicpm",
        "minicpm3",
        "mpt",
        "opt",
        "smollm3",
    }
    | {"starcoder2"}
)
"""Language models whose configuration class in transformers ties the embeddings unless told otherwise."""

_LARGEST = 1 << 31  # sizes and ids beyond a 32-bit integer are damage, not models


@dataclass(frozen=True)
class ModelConfig:
    """What `config.json` says: `raw` as it stands; the facts of a multimodal model are its text model's."""

    raw: Mapping[str, Any]
    architecture: str
    model_type: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    rms_norm_eps: float | None
    rope_theta: float | None
    rope_scaling: Mapping[str, Any] | None
    """None for plain RoPE; otherwise `rope_type` is always there, whatever the key was called."""
    tie_word_embeddings: bool
    dtype: str
    """"bfloat16", "float16" or "float32" as declared; "float32" when undeclared (the weights know better)."""
    sliding_window: int | None
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    quantization: str | None
    """`quant_method` of a quantized checkpoint ("bitsandbytes", "gptq", "awq", "fp8", …)."""

    @classmethod
    def parse(cls, raw: Mapping[str, Any], path: Path) -> ModelConfig:
        """Read the facts out of the object of `config.json`; `path` is for messages.

        Raises `CheckpointFlaw` (code `config-incomplete` or `config-damaged`).
        """
        fields = _Fields({**raw, **_text_config(raw)}, path)
        hidden = fields.size("hidden_size", "n_embd", "d_model")
        heads = fields.size("num_attention_heads", "n_head")
        rope = fields.mapping("rope_parameters")
        return cls(
            raw=raw,
            architecture=_architecture(raw, path),
            model_type=str(raw.get("model_type") or ""),
            hidden_size=hidden,
            intermediate_size=fields.size(
                "intermediate_size", "ffn_hidden_size", "n_inner", default=4 * hidden
            ),
            layers=fields.size("num_hidden_layers", "n_layer", "num_layers"),
            heads=heads,
            kv_heads=fields.size("num_key_value_heads", "multi_query_group_num", default=heads),
            head_dim=fields.size("head_dim", default=max(1, hidden // heads)),
            vocab_size=fields.size("vocab_size", "padded_vocab_size"),
            context_length=fields.size(
                "max_position_embeddings",
                "n_positions",
                "seq_length",
                "max_seq_len",
                "model_max_length",
                default=2048,
            ),
            rms_norm_eps=fields.number("rms_norm_eps"),
            rope_theta=_rope_theta(fields, rope),
            rope_scaling=_rope_scaling(fields, rope),
            tie_word_embeddings=_tied(raw, fields),
            dtype=_dtype(fields),
            sliding_window=fields.optional_size("sliding_window"),
            eos_token_ids=fields.ids("eos_token_id"),
            bos_token_id=next(iter(fields.ids("bos_token_id")), None),
            quantization=_quantization(fields),
        )


@dataclass(frozen=True)
class GenerationConfig:
    """What `generation_config.json` says; without the file `exists` is False and nothing is set."""

    raw: Mapping[str, Any]
    exists: bool
    eos_token_ids: tuple[int, ...]

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None, path: Path) -> GenerationConfig:
        """Read the object of `generation_config.json`, None for a missing file. Raises `CheckpointFlaw`."""
        if raw is None:
            return cls({}, False, ())
        return cls(raw, True, _Fields(raw, path).ids("eos_token_id"))


@dataclass(frozen=True)
class _Fields:
    """Typed access to an object's keys, each under any of its names; null counts as absent."""

    raw: Mapping[str, Any]
    path: Path

    def first(self, *names: str) -> tuple[str, Any]:
        for name in names:
            if self.raw.get(name) is not None:
                return name, self.raw[name]
        return names[0], None

    def size(self, *names: str, default: int | None = None) -> int:
        name, value = self.first(*names)
        if value is None and default is not None:
            return default
        if value is None:
            raise CheckpointFlaw(
                "config-incomplete",
                f"{self.path} has no {name}.",
                hint="Copy config.json from the base model, or save the checkpoint again.",
            )
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not 0 < value < _LARGEST:
            raise self.damaged(name, value, "a positive whole number")
        return value

    def optional_size(self, name: str) -> int | None:
        return None if self.raw.get(name) is None else self.size(name)

    def number(self, name: str) -> float | None:
        value = self.raw.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise self.damaged(name, value, "a positive number")
        return float(value)

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self.raw.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.damaged(name, value, "an object")
        return value

    def ids(self, name: str) -> tuple[int, ...]:
        value = self.raw.get(name)
        listed = [] if value is None else value if isinstance(value, list) else [value]
        # -1 is some families' way to write "none"
        listed = [item for item in listed if item != -1]
        if not all(type(item) is int and 0 <= item < _LARGEST for item in listed):
            raise self.damaged(name, value, "a token id or a list of token ids")
        return tuple(dict.fromkeys(listed))

    def damaged(self, name: str, value: object, wanted: str) -> CheckpointFlaw:
        shown = _brief(value)
        return CheckpointFlaw(
            "config-damaged",
            f"{self.path} has {name} = {shown}, where {wanted} is needed.",
            hint="Compare the file with the base model's.",
        )


def _brief(value: object) -> str:
    # repr() of an integer of more than 4300 digits raises
    text = "a very large number" if isinstance(value, int) and abs(value) > 1 << 64 else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text_config(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = raw.get("text_config")
    return nested if isinstance(nested, dict) and "hidden_size" not in raw else {}


def _architecture(raw: Mapping[str, Any], path: Path) -> str:
    listed = raw.get("architectures")
    if isinstance(listed, list) and listed and isinstance(listed[0], str) and listed[0]:
        return listed[0]
    raise CheckpointFlaw(
        "config-incomplete",
        f"{path} does not say which architecture the model has (architectures is missing or empty).",
        hint='Write the base model\'s, for instance "architectures": ["LlamaForCausalLM"].',
    )


def _tied(raw: Mapping[str, Any], fields: _Fields) -> bool:
    # transformers takes the outer value of a multimodal config, and does not save the key at its default.
    value = raw.get("tie_word_embeddings", fields.raw.get("tie_word_embeddings"))
    if value is None:
        return fields.raw.get("model_type") in _TIED_BY_DEFAULT
    if not isinstance(value, bool):
        raise fields.damaged("tie_word_embeddings", value, "true or false")
    return value


def _dtype(fields: _Fields) -> str:
    _, value = fields.first("dtype", "torch_dtype")
    if value is None:
        return "float32"
    name = value.removeprefix("torch.") if isinstance(value, str) else ""
    aliases = {
        "half": "float16",
        "float": "float32",
        "bf16": "bfloat16",
        "fp16": "float16",
        "fp32": "float32",
    }
    name = aliases.get(name, name)
    if name not in {"bfloat16", "float16", "float32"}:
        raise fields.damaged("dtype", value, '"bfloat16", "float16" or "float32"')
    return name


def _rope_part(rope: Mapping[str, Any]) -> Mapping[str, Any]:
    # Models that mix attention kinds nest the parameters by kind; full attention's are the model's own.
    nested = rope.get("full_attention")
    return nested if isinstance(nested, dict) else rope


def _rope_theta(fields: _Fields, rope: Mapping[str, Any]) -> float | None:
    inner = _Fields(_rope_part(rope), fields.path).number("rope_theta")
    return inner if inner is not None else fields.number("rope_theta")


def _rope_scaling(fields: _Fields, rope: Mapping[str, Any]) -> Mapping[str, Any] | None:
    scaling = dict(fields.mapping("rope_scaling") or _rope_part(rope))
    scaling.pop("rope_theta", None)
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None)
    scaling.pop("type", None)
    if kind is None or kind == "default":
        return None
    if not isinstance(kind, str):
        raise fields.damaged("rope_scaling", kind, "a rope_type in words")
    for name, value in scaling.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise fields.damaged(f"rope_scaling.{name}", value, "a finite number")
    return {"rope_type": kind, **scaling}


def _quantization(fields: _Fields) -> str | None:
    name, value = fields.first("quantization_config", "compression_config")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise fields.damaged(name, value, "an object")
    method = value.get("quant_method")
    if isinstance(method, str) and method:
        return method
    return "bitsandbytes" if any(key.startswith(("bnb_", "load_in_")) for key in value) else "unknown"
