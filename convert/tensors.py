"""Every tensor of a checkpoint matched with its place in the GGUF file, or refused by name.

Knows: a family's rules, the shapes that config.json implies, tied heads. Does not know types of files and
does not convert; it looks into the weights only to compare a stored lm_head with the embedding it is tied to.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from checkpoint import Checkpoint, Finding, ModelConfig, PlainWeights, Rows, TensorInfo, quantized_weights
from convert.architectures import Family, TensorRule, sizes
from convert.rows import computed, stacked
from errors import ConversionError

__all__ = ["TensorSource", "map_tensors"]

_IGNORED = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")
"""Ends of names of buffers that old checkpoints carry and that follow from the config."""

_DTYPES = ("BF16", "F16", "F32")
_LISTED = 3


@dataclass(frozen=True)
class TensorSource:
    """One tensor of the GGUF file and the rows it is written from."""

    name: str
    """In the GGUF file."""
    rows: Rows = field(repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape

    @property
    def dtype(self) -> str:
        """ "BF16", "F16" or "F32"."""
        return self.rows.dtype

    @property
    def described(self) -> str:
        """What to call it in a message: the stored tensors, or its own name where none is stored."""
        return _few(self.rows.names) or self.name

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "sources": list(self.rows.names),
            "dtype": self.dtype,
            "shape": list(self.shape),
        }


@dataclass(frozen=True)
class _Expected:
    """One rule in one layer."""

    rule: TensorRule
    target: str
    names: tuple[str, ...]
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
    for finding in quantized_weights(checkpoint):
        raise ConversionError(f"{checkpoint.path}: {finding.message}", hint=finding.fix)
    expected = tuple(_expected(family, config))
    ignored = _ignored(family, config)
    weights = PlainWeights.of(checkpoint)
    infos = {info.name: info for info in weights if not ignored.fullmatch(info.name)}
    _check_names(checkpoint, family, expected, infos)
    present = [item for item in expected if item.names[0] in infos]
    for item in present:
        for name in item.names:
            _check(infos[name], item, scaled=name in weights.scales)
    drop_head, findings = _head(checkpoint, family, repair=repair)
    stored = [
        TensorSource(item.target, _rows(weights, config, item))
        for item in sorted(present, key=lambda item: _place(infos[item.names[0]]))
        if not (drop_head and item.names[0] == family.head)
    ]
    made = [TensorSource(item.name, computed(item.values)) for item in family.computed(config)]
    return (*made, *stored), findings


def _ignored(family: Family, config: ModelConfig) -> re.Pattern[str]:
    """Return what matches the whole name of a tensor that is left out on purpose."""
    further = (rf"model\.layers\.{config.layers + number}\..*" for number in range(family.appended(config)))
    return re.compile("|".join([*family.ignored, *further, *(f".*{re.escape(end)}" for end in _IGNORED)]))


def _place(info: TensorInfo) -> tuple[str, int]:
    return str(info.file), info.start


def _rows(weights: PlainWeights, config: ModelConfig, item: _Expected) -> Rows:
    rows = [weights.rows(name) for name in item.names]
    if item.rule.make is not None:
        return item.rule.make(rows, config)
    return stacked(rows) if "{expert}" in item.rule.source else rows[0]


def _expected(family: Family, config: ModelConfig) -> Iterator[_Expected]:
    known = {**sizes(config), **family.sizes(config)}
    for rule in family.rules:
        shape = tuple(size if isinstance(size, int) else known[size] for size in rule.shape)
        every = range(config.layers) if rule.layers is None else rule.layers(config)
        layers: Iterable[int | None] = every if "{}" in rule.source else (None,)
        experts = range(known["experts"]) if "{expert}" in rule.source else (0,)
        for layer in layers:
            name = rule.source.replace("{}", str(layer))
            names = tuple(name.replace("{expert}", str(expert)) for expert in experts)
            yield _Expected(rule, rule.target.replace("{}", str(layer)), names, shape)


def _check_names(
    checkpoint: Checkpoint, family: Family, expected: Sequence[_Expected], present: Collection[str]
) -> None:
    known = {name for item in expected for name in item.names}
    unknown = [name for name in present if name not in known]
    if unknown:
        raise ConversionError(
            f"{checkpoint.path} holds {_several(unknown)} that a {checkpoint.config.architecture} with "
            f"{checkpoint.config.layers} layers does not have.",
            hint="An adapter, a quantized or a multimodal checkpoint cannot be converted; neither can one "
            "whose config.json belongs to another model.",
        )
    # Of a tensor that may be absent, some experts may not.
    needed = [
        name
        for item in expected
        if item.rule.required or any(name in present for name in item.names)
        for name in item.names
    ]
    if not checkpoint.config.tie_word_embeddings:
        needed.append(family.head)
    missing = [name for name in dict.fromkeys(needed) if name not in present]
    if missing:
        hint = "Save the merged model again; look for an interrupted merge."
        if missing == [family.head]:
            hint = "If the head is tied to the embedding, config.json must say tie_word_embeddings: true."
        raise ConversionError(f"{checkpoint.path} lacks {_several(missing)}.", hint=hint)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(name[:120] for name in names[:_LISTED]) + more


def _several(names: Sequence[str]) -> str:
    return f"the tensor{'s' if len(names) > 1 else ''} {_few(names)}"


def _check(info: TensorInfo, expected: _Expected, *, scaled: bool) -> None:
    if info.dtype not in _DTYPES and not scaled:
        raise ConversionError(
            f"Tensor {info.name} in {info.file} is stored as {info.dtype}; only {', '.join(_DTYPES)} can be "
            "converted.",
            hint="Merge into the original 16-bit base model, and convert that.",
        )
    if info.shape != expected.shape:
        rule = " x ".join(map(str, expected.rule.shape))
        raise ConversionError(
            f"Tensor {info.name} in {info.file} has the shape {_shape(info.shape)}, but config.json implies "
            f"{_shape(expected.shape)} ({rule}).",
            hint="config.json and the weights must come from the same model; after resizing the vocabulary, "
            "save both again.",
        )


def _shape(shape: Sequence[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _head(checkpoint: Checkpoint, family: Family, *, repair: bool) -> tuple[bool, tuple[Finding, ...]]:
    """Return whether a stored head is left out, and what to say about it."""
    weights = checkpoint.weights
    if not checkpoint.config.tie_word_embeddings or family.head not in weights or not repair:
        return False, ()
    if np.array_equal(weights.raw(family.head), weights.raw(family.embedding)):
        return True, ()
    finding = Finding(
        "tied-head-differs",
        "warning",
        f"config.json ties the head to the embedding, yet a different {family.head} is stored; it is "
        "converted as stored, and engines disagree about which one counts.",
        f"Set tie_word_embeddings to false if the head was trained, or remove {family.head} if it was not.",
    )
    return False, (finding,)
