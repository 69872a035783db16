"""What a conversion will do, decided before anything is written: files, tensors, types, metadata, sizes.

A plan is frozen and can be shown as JSON; running it (run.py) decides nothing more. Does not convert.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoint import Checkpoint, Finding
from convert.architectures import Family, experts_of, family_of
from convert.choices import MIXTURE, TypeChoices
from convert.fields import Field
from convert.importance import Importance
from convert.metadata import (
    ParameterCounts,
    chat_template_fields,
    general_fields,
    quantization_fields,
)
from convert.recipe import ModelShape, is_quantizable, tensor_types
from convert.split import ShardPlan, cut
from convert.tensors import TensorSource, map_tensors
from convert.types import FILE_TYPES, normalize_type, tensor_type
from convert.vocabulary import read_vocabulary
from convert.writer import OutputTensor
from errors import OutputError, UsageError

if TYPE_CHECKING:
    from chat_templates import Stops, TemplateSource

__all__ = [
    "ConversionPlan",
    "FilePlan",
    "check_importance",
    "file_label",
    "importance_fields",
    "output_directory",
    "plan_conversion",
    "unused_choices",
]


@dataclass(frozen=True)
class FilePlan:
    """One GGUF file to be written, or the shards of one."""

    type: str
    shards: tuple[ShardPlan, ...]
    """What lies on the disk; together they hold the tensors in the order of the plan's `sources`."""

    @property
    def path(self) -> Path:
        """What an engine is given: the file, or the first of its shards."""
        return self.shards[0].path

    @property
    def fields(self) -> tuple[Field, ...]:
        return self.shards[0].fields

    @cached_property
    def tensors(self) -> tuple[OutputTensor, ...]:
        return tuple(tensor for shard in self.shards for tensor in shard.tensors)

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.shards)

    def as_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "type": self.type,
            "bytes": self.bytes,
            "shards": [{"path": str(shard.path), "bytes": shard.bytes} for shard in self.shards],
            "metadata": {field.key: field.as_json() for field in self.fields},
            "tensors": [tensor.as_json() for tensor in self.tensors],
        }


@dataclass(frozen=True)
class ConversionPlan:
    """A checkpoint and the files that are made of it in one pass over its weights."""

    checkpoint: Path
    fingerprint: str
    """Of the weights, as they were when the plan was made."""
    name: str
    architecture: str
    sources: tuple[TensorSource, ...]
    files: tuple[FilePlan, ...]
    findings: tuple[Finding, ...]
    adapter: Path | None = None
    """The LoRA adapter that is merged in."""
    choices: TypeChoices = MIXTURE
    importance: Importance | None = None
    """What weighs the columns while they are quantized."""

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(file.bytes for file in self.files)

    def as_json(self) -> dict[str, Any]:
        return {
            "checkpoint": str(self.checkpoint),
            "adapter": str(self.adapter) if self.adapter else None,
            "name": self.name,
            "architecture": self.architecture,
            "imatrix": str(self.importance.path) if self.importance else None,
            **self.choices.as_json(),
            "bytes": self.bytes,
            "sources": [source.as_json() for source in self.sources],
            "files": [file.as_json() for file in self.files],
            "findings": [finding.as_json() for finding in self.findings],
        }


def plan_conversion(
    checkpoint: Checkpoint,
    types: Sequence[str],
    output_dir: Path | None = None,
    *,
    source: TemplateSource | None = None,
    stops: Stops | None = None,
    name: str | None = None,
    choices: TypeChoices = MIXTURE,
    importance: Importance | None = None,
    pre: str | None = None,
    split: int | None = None,
) -> ConversionPlan:
    """Return the plan for files of the given types, NAME-TYPE.gguf in `output_dir` (the current directory).

    `source` is the chat template to be written, `stops` the ids the file must stop on; without them the file
    says what the stock converter of llama.cpp would have it say. `choices` and `importance` bear upon files
    that are quantized. `pre` names the pre-tokenizer where it is not to be recognised. `split` is the largest
    size in bytes of a shard's tensors; None writes each file in one. Raises `UsageError`
    for an unknown type or `pre` and `ConversionError` for a checkpoint that cannot become a GGUF.
    """
    kinds = tuple(dict.fromkeys(normalize_type(kind) for kind in types))
    if not kinds:
        raise UsageError("No GGUF type was named.", hint=f"Known types: {', '.join(FILE_TYPES)}.")
    directory = output_directory(checkpoint, output_dir)
    config = checkpoint.config
    family = family_of(config.architecture)
    hyper_parameters = family.fields(config)
    sources, tensor_findings = map_tensors(checkpoint, family, repair=stops is not None)
    vocabulary = read_vocabulary(
        checkpoint,
        None if stops is None else stops.ids,
        prompts_begin_with_bos=source.begins_with_bos() if source else None,
        pre=pre,
    )
    template = checkpoint.tokenizer.config.get("chat_template", checkpoint.chat_template)
    before = [*general_fields(checkpoint, family.name, _parameters(sources), name), *hyper_parameters]
    after = [*vocabulary.fields(), *chat_template_fields(template if source is None else source.gguf_jinja)]
    label = file_label(name or checkpoint.name)
    choices = replace(choices, weighted=importance is not None)

    def planned(kind: str) -> FilePlan:
        about = (*quantization_fields(FILE_TYPES[kind].number), *after, *importance_fields(kind, importance))
        tensors = _tensors(sources, kind, family, checkpoint, choices)
        path = directory / f"{label}-{_suffix(kind)}.gguf"
        return FilePlan(kind, cut(path, (*before, *about), tensors, split))

    files = tuple(planned(kind) for kind in kinds)
    check_importance(files, importance)
    findings = (*family.findings(config), *tensor_findings, *vocabulary.findings)
    return ConversionPlan(
        checkpoint=checkpoint.path,
        fingerprint=checkpoint.weights.fingerprint(),
        name=name or checkpoint.name,
        architecture=config.architecture,
        sources=sources,
        files=files,
        findings=(*findings, *unused_choices(choices, files)),
        adapter=checkpoint.adapter,
        choices=choices,
        importance=importance,
    )


def _tensors(
    sources: Sequence[TensorSource], kind: str, family: Family, checkpoint: Checkpoint, choices: TypeChoices
) -> tuple[OutputTensor, ...]:
    config = checkpoint.config
    tied = all(source.name != "output.weight" for source in sources)
    model = ModelShape(family.name, config.layers, config.heads, config.kv_heads, tied, experts_of(config))
    described = [(source.name, len(source.shape), source.shape[-1]) for source in sources]
    types = tensor_types(described, kind, model, choices)
    return tuple(OutputTensor(source.name, source.shape, types[source.name]) for source in sources)


def _is_quantized(kind: str) -> bool:
    return tensor_type(FILE_TYPES[kind].base).quantized


def importance_fields(kind: str, importance: Importance | None) -> tuple[Field, ...]:
    """Return what a file of type `kind` says of the importance matrix it was quantized with."""
    return importance.fields() if importance and _is_quantized(kind) else ()


def unused_choices(choices: TypeChoices, files: Sequence[FilePlan]) -> tuple[Finding, ...]:
    """Say which patterns decide the type of no tensor."""
    chosen = [file for file in files if _is_quantized(file.type)]
    return choices.unused(
        tensor.name
        for file in chosen
        for tensor in file.tensors
        if is_quantizable(tensor.name, len(tensor.shape))
    )


def check_importance(files: Sequence[FilePlan], importance: Importance | None) -> None:
    """Raise `ConversionError` for weights of the wrong number, before anything is written."""
    if importance is None:
        return
    for file in files:
        for tensor in file.tensors:
            if tensor.type.quantized:
                importance.of(tensor.name, tensor.shape)


def _parameters(sources: Sequence[TensorSource]) -> ParameterCounts:
    shared = sum(math.prod(source.shape) for source in sources if "_exps." not in source.name)
    stacks = [source.shape for source in sources if "_exps." in source.name]
    return ParameterCounts(
        total=shared + sum(map(math.prod, stacks)),
        shared=shared,
        expert=sum(math.prod(shape[1:]) for shape in stacks),
        experts=stacks[0][0] if stacks else 0,
    )


def _suffix(kind: str) -> str:
    return kind.upper()


def file_label(name: str) -> str:
    """Return `name` as a part of a file name."""
    label = "".join("-" if char in "/\\:" or not char.isprintable() else char for char in name).strip()
    return label.lstrip(".") or "model"


def output_directory(checkpoint: Checkpoint, output_dir: Path | None) -> Path:
    """Return `output_dir`, by default the current directory. Raises `OutputError` for a wrong one."""
    directory = Path.cwd() if output_dir is None else Path(output_dir)
    if directory.exists() and not directory.is_dir():
        raise OutputError(f"{directory} is not a directory.", hint="Name a directory with -o.")
    inside = os.path.realpath(directory)
    if inside == os.path.realpath(checkpoint.path):
        raise OutputError(
            f"{directory} is the checkpoint itself, and nothing is ever written there.",
            hint="Name another directory with -o.",
        )
    return directory
