"""The metadata under `general.` and the chat template.

The `general.` keys (name, size, licence, base models, recommended sampling) come from gguf's own reading of
the model card, the config and the directory's name, so they are those of the stock converter. Does not know
tensors nor tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint import Checkpoint
from convert.fields import Field, Kind, string, strings, uint32

__all__ = [
    "QUANTIZATION_VERSION",
    "ParameterCounts",
    "chat_template_fields",
    "described_fields",
    "general_fields",
    "quantization_fields",
]

QUANTIZATION_VERSION = 2


@dataclass(frozen=True)
class ParameterCounts:
    """How large a model is."""

    total: int
    shared: int
    """Outside of the experts."""
    expert: int
    """In one expert of every layer."""
    experts: int
    """Of a layer; 0 for a dense model."""


def general_fields(
    checkpoint: Checkpoint, architecture: str, parameters: ParameterCounts, name: str | None
) -> list[Field]:
    """Return general.architecture and what describes the model; `name` overrides general.name."""
    described = described_fields(
        checkpoint.path.absolute(),
        name,
        fallback=checkpoint.name,
        total=parameters.total,
        size_label=_size_label(parameters),
        repetition_penalty=checkpoint.generation.raw.get("repetition_penalty"),
    )
    return [string("general.architecture", architecture), string("general.type", "model"), *described]


def _size_label(parameters: ParameterCounts) -> str:
    """Return "1.5B", "8x7B" and the like."""
    import gguf

    return str(gguf.size_label(parameters.total, parameters.shared, parameters.expert, parameters.experts))


def described_fields(
    directory: Path,
    name: str | None,
    *,
    fallback: str,
    total: int,
    size_label: str | None = None,
    repetition_penalty: Any = None,
) -> list[Field]:
    """Return what the model card and the small files in `directory`, and its name, tell of a model.

    `name` overrides general.name, `fallback` is for want of one. `total` is the number of parameters.
    """
    collected = _collected(directory, name, fallback, total, size_label, repetition_penalty)
    if collected is None:
        return [string("general.name", name or fallback)]
    fields = [
        _field(key, value.type.value, value.value)
        for key, value in collected.items()
        if key != "general.architecture"
    ]
    return [field for field in fields if field is not None]


def _collected(
    directory: Path, name: str | None, fallback: str, total: int, size_label: str | None, penalty: Any
) -> Mapping[str, Any] | None:
    import logging

    import gguf
    import yaml

    # Whatever a model card holds, the worst it can do is to go unused.
    logging.getLogger("metadata").setLevel(logging.CRITICAL)
    try:
        metadata = gguf.Metadata.load(None, directory, name, total)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError, yaml.YAMLError):
        metadata = gguf.Metadata(name=name)
    metadata.name = metadata.name or fallback
    metadata.size_label = metadata.size_label or size_label
    if metadata.sampling_penalty_repeat is None:
        metadata.sampling_penalty_repeat = penalty
    writer = gguf.GGUFWriter(path=None, arch="none")
    try:
        metadata.set_gguf_meta_model(writer)
    except (TypeError, AttributeError, KeyError):
        return None
    collected: Mapping[str, Any] = writer.kv_data[0]
    return collected


def _field(key: str, kind: int, value: Any) -> Field | None:
    """Return a field whose value really has the type it claims, None where that cannot be."""
    if kind == Kind.STRING:
        return string(key, str(value))
    if kind == Kind.ARRAY:
        items = [str(item) for item in value] if isinstance(value, Sequence) else []
        return strings(key, items) if items else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if kind == Kind.FLOAT32:
        return Field(key, Kind.FLOAT32, float(value)) if abs(value) < 1e38 else None
    return Field(key, Kind(kind), int(value)) if 0 <= value < 1 << 31 else None


def chat_template_fields(template: Any) -> tuple[Field, ...]:
    """Return the chat template: a text, or the list of named ones that tokenizer_config.json may hold."""
    if isinstance(template, str):
        return (string("tokenizer.chat_template", template),)
    if not isinstance(template, list):
        return ()
    named = {}
    for item in template:
        if isinstance(item, Mapping) and isinstance(item.get("template"), str):
            named[re.sub(r"[^A-Za-z0-9]", "_", str(item.get("name", "")))] = item["template"]
    default = named.pop("default", None)
    named.pop("", None)
    fields = [string(f"tokenizer.chat_template.{name}", text) for name, text in named.items()]
    if named:
        fields.append(strings("tokenizer.chat_templates", list(named)))
    if default is not None:
        fields.append(string("tokenizer.chat_template", default))
    return tuple(fields)


def quantization_fields(file_type: int) -> tuple[Field, ...]:
    """Return what a loader reads to know how the tensors are stored."""
    return (
        uint32("general.file_type", file_type),
        uint32("general.quantization_version", QUANTIZATION_VERSION),
    )
