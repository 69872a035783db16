"""Every tensor of a checkpoint matched with its place in the GGUF file, or refused by name.

Knows: a family's rules, the shapes that config.json implies, tied heads. Does not know types of files and
does not convert; it looks into the weights only to compare a stored lm_head with the embedding it is tied to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from checkpoint import Checkpoint, Finding, ModelConfig, TensorInfo
from convert.architectures import Family, TensorRule, sizes
from errors import ConversionError

__all__ = ["TensorSource", "map_tensors"]

_IGNORED = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")
"""Ends of names of buffers that old checkpoints carry and that follow from the config."""

_DTYPES = ("BF16", "F16", "F32")
_LISTED = 3
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@dataclass(frozen=True)
class TensorSource:
    """Where the data of one GGUF tensor comes from: a tensor of the checkpoint, or `values`."""

    name: str
    """In the GGUF file."""
    shape: tuple[int, ...]
    source: str | None
    """In the checkpoint."""
    dtype: str
    """"BF16", "F16" or "F32"."""
    heads: int | None = None
    """Of how many heads the rows are reordered; None: they stay in order."""
    values: tuple[float, ...] | None = None

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "source": self.source, "dtype": self.dtype, "shape": list(self.shape)}


@dataclass(frozen=True)
class _Expected:
    rule: TensorRule
    target: str
    shape: tuple[int, ...]


def map_tensors(
    checkpoint: Checkpoint, family: Family, *, repair: bool
) -> tuple[tuple[TensorSource, ...], tuple[Finding, ...]]:
    """Return the tensors to be written, in the order in which they lie in the weight files, and findings.

    With `repair` a stored head that equals the embedding it is tied to is left out, as transformers does.
    Raises `ConversionError` for a tensor that is unknown, missing, of another shape or of a type that holds
    quantized weights.
    """
    config = checkpoint.config
    if config.quantization:
        raise ConversionError(
            f"The weights in {checkpoint.path} are quantized already ({config.quantization}).",
            hint="Merge the adapter into the original 16-bit base model, and convert that.",
        )
    expected = dict(_expected(family, config))
    infos = sorted(
        (info for info in checkpoint.weights if not info.name.endswith(_IGNORED)),
        key=lambda info: (str(info.file), info.start),
    )
    _check_names(checkpoint, expected, [info.name for info in infos])
    for info in infos:
        _check(info, expected[info.name])
    drop_head, findings = _head(checkpoint, repair=repair)
    stored = [
        _source(info, expected[info.name], config) for info in infos if not (drop_head and info.name == _HEAD)
    ]
    computed = [
        TensorSource(item.name, (len(item.values),), None, "F32", values=item.values)
        for item in family.computed(config)
    ]
    return (*computed, *stored), findings


def _expected(family: Family, config: ModelConfig) -> Iterator[tuple[str, _Expected]]:
    known = sizes(config)
    for rule in family.rules:
        shape = tuple(known[size] for size in rule.shape)
        layers: Sequence[int | None] = range(config.layers) if "{}" in rule.source else (None,)
        for layer in layers:
            yield rule.source.format(layer), _Expected(rule, rule.target.format(layer), shape)


def _check_names(checkpoint: Checkpoint, expected: dict[str, _Expected], names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in expected]
    if unknown:
        raise ConversionError(
            f"{checkpoint.path} holds {_several(unknown)} that a {checkpoint.config.architecture} with "
            f"{checkpoint.config.layers} layers does not have.",
            hint="An adapter, a quantized or a multimodal checkpoint cannot be converted; neither can one "
            "whose config.json belongs to another model.",
        )
    needed = [name for name, item in expected.items() if item.rule.required]
    if not checkpoint.config.tie_word_embeddings:
        needed.append(_HEAD)
    present = set(names)
    missing = [name for name in needed if name not in present]
    if missing:
        hint = "Save the merged model again; look for an interrupted merge."
        if missing == [_HEAD]:
            hint = "If the head is tied to the embedding, config.json must say tie_word_embeddings: true."
        raise ConversionError(f"{checkpoint.path} lacks {_several(missing)}.", hint=hint)


def _several(names: Sequence[str]) -> str:
    shown = ", ".join(name[:120] for name in names[:_LISTED])
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"the tensor{'s' if len(names) > 1 else ''} {shown}{more}"


def _check(info: TensorInfo, expected: _Expected) -> None:
    if info.dtype not in _DTYPES:
        raise ConversionError(
            f"Tensor {info.name} in {info.file} is stored as {info.dtype}; only {', '.join(_DTYPES)} can be "
            "converted.",
            hint="Merge into the original 16-bit base model, and convert that.",
        )
    if info.shape != expected.shape:
        rule = " x ".join(expected.rule.shape)
        raise ConversionError(
            f"Tensor {info.name} in {info.file} has the shape {_shape(info.shape)}, but config.json implies "
            f"{_shape(expected.shape)} ({rule}).",
            hint="config.json and the weights must come from the same model; after resizing the vocabulary, "
            "save both again.",
        )


def _shape(shape: Sequence[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _head(checkpoint: Checkpoint, *, repair: bool) -> tuple[bool, tuple[Finding, ...]]:
    """Return whether a stored lm_head is left out, and what to say about it."""
    if not checkpoint.config.tie_word_embeddings or _HEAD not in checkpoint.weights or not repair:
        return False, ()
    if np.array_equal(checkpoint.weights.raw(_HEAD), checkpoint.weights.raw(_EMBEDDING)):
        return True, ()
    finding = Finding(
        "tied-head-differs",
        "warning",
        "config.json ties the head to the embedding, yet a different lm_head.weight is stored; it is "
        "converted as stored, and engines disagree about which one counts.",
        "Set tie_word_embeddings to false if the head was trained, or remove lm_head.weight if it was not.",
    )
    return False, (finding,)


def _source(info: TensorInfo, expected: _Expected, config: ModelConfig) -> TensorSource:
    layout = expected.rule.unpermute
    heads = {"heads": config.heads, "kv_heads": config.kv_heads, None: None}[layout]
    return TensorSource(expected.target, info.shape, info.name, info.dtype, heads)
