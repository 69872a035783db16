"""A plan whose tensors come out of a GGUF file of 16 or 32 bits, which llama.cpp's converter wrote.

Which tensor gets which type is decided as for a checkpoint; the metadata is kept byte for byte but for the
type, and the chat template and the stop ids where they are repaired. Does not know how the file came about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoint import Checkpoint, Finding, StoredRows
from convert.choices import MIXTURE, TypeChoices
from convert.fields import Field, StoredField, string, uint32
from convert.importance import Importance
from convert.metadata import quantization_fields
from convert.plan import (
    ConversionPlan,
    FilePlan,
    check_importance,
    file_label,
    importance_fields,
    output_directory,
    unused_choices,
)
from convert.reader import GgufSummary, GgufTensor, read_gguf
from convert.recipe import ModelShape, tensor_types
from convert.split import cut
from convert.stops import stop_slots
from convert.tensors import TensorSource
from convert.types import FILE_TYPES, normalize_type, tensor_type
from convert.writer import OutputTensor
from errors import ConversionError

if TYPE_CHECKING:
    from chat_templates import Stops, TemplateSource

__all__ = ["plan_from_gguf"]

_TOKENS = "tokenizer.ggml.tokens"
_NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_NEVER = (
    *("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "altup", "laurel"),
    *("per_layer_model_proj", "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight"),
    *("indexer.q_proj.weight", "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight"),
    *("time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight"),
    *("time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight"),
    *("time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight"),
    *("time_mix_lerp_fused.weight", "attn_rel_b.weight", ".position_embd", ".rel_pos", ".patch_embd"),
)
"""Parts of names of matrices that stay as they are (`tensor_allows_quantization` of src/llama-quant.cpp)."""
_NEVER_WHOLE = ("position_embd.weight", "token_types.weight")


def plan_from_gguf(
    checkpoint: Checkpoint,
    file: Path,
    types: Sequence[str],
    output_dir: Path | None = None,
    *,
    source: TemplateSource | None = None,
    stops: Stops | None = None,
    choices: TypeChoices = MIXTURE,
    importance: Importance | None = None,
    split: int | None = None,
) -> ConversionPlan:
    """Return the plan for files of `types` made of the GGUF `file`, to which `checkpoint` was converted.

    The rest is as for `plan_conversion`. Raises `ConversionError` for a file that is quantized already.
    """
    kinds = tuple(dict.fromkeys(normalize_type(kind) for kind in types))
    directory = output_directory(checkpoint, output_dir)
    summary = read_gguf(file, arrays=(_TOKENS,))
    data = np.memmap(file, np.uint8, "r")
    sources = tuple(_source(summary, tensor, data) for tensor in summary.tensors)
    fields, findings = _fields(summary, data, source, stops)
    label = file_label(checkpoint.name)
    files = tuple(
        FilePlan(
            kind,
            cut(
                directory / f"{label}-{kind.upper()}.gguf",
                (
                    *fields,
                    *quantization_fields(FILE_TYPES[kind].number),
                    *importance_fields(kind, importance),
                ),
                _tensors(summary, sources, kind, choices),
                split,
            ),
        )
        for kind in kinds
    )
    check_importance(files, importance)
    return ConversionPlan(
        checkpoint=checkpoint.path,
        fingerprint=checkpoint.weights.fingerprint(),
        name=checkpoint.name,
        architecture=checkpoint.config.architecture,
        sources=sources,
        files=files,
        findings=(*findings, *unused_choices(choices, files)),
        choices=choices,
        importance=importance,
    )


def _source(summary: GgufSummary, tensor: GgufTensor, data: np.ndarray[Any, Any]) -> TensorSource:
    if tensor.type not in _NUMPY or tensor.bytes is None:
        raise ConversionError(
            f"Tensor {tensor.name} in {summary.path} is of {tensor.type}, which is not quantized again.",
            hint="Update the llama.cpp checkout.",
        )
    stored = data[tensor.offset : tensor.offset + tensor.bytes].view(_NUMPY[tensor.type])
    return TensorSource(tensor.name, StoredRows((tensor.name,), tensor.type, stored.reshape(tensor.shape)))


def _tensors(
    summary: GgufSummary, sources: Sequence[TensorSource], kind: str, choices: TypeChoices
) -> tuple[OutputTensor, ...]:
    described = [
        (source.name, len(source.shape), source.shape[-1]) for source in sources if not _stays(source.name)
    ]
    types = tensor_types(described, kind, _shape(summary), choices)
    # What is not quantized has the type that the converter gave it.
    return tuple(
        OutputTensor(
            source.name,
            source.shape,
            tensor_type(source.dtype) if _stays(source.name) or len(source.shape) < 2 else types[source.name],
        )
        for source in sources
    )


def _stays(name: str) -> bool:
    return name in _NEVER_WHOLE or not name.endswith("weight") or any(part in name for part in _NEVER)


def _shape(summary: GgufSummary) -> ModelShape:
    architecture = summary.architecture or ""

    def number(key: str, default: int) -> int:
        value = summary.metadata.get(f"{architecture}.{key}", default)
        value = max(value, default=default) if isinstance(value, list) else value
        return value if type(value) is int and value > 0 else default

    heads = number("attention.head_count", 1)
    return ModelShape(
        architecture,
        number("block_count", 1),
        heads,
        number("attention.head_count_kv", heads),
        all(tensor.name != "output.weight" for tensor in summary.tensors),
        number("expert_count", 0),
    )


def _fields(
    summary: GgufSummary,
    data: np.ndarray[Any, Any],
    source: TemplateSource | None,
    stops: Stops | None,
) -> tuple[tuple[Field, ...], tuple[Finding, ...]]:
    """Return the metadata as it is stored, with the chat template and the stop ids that are asked for."""
    changed: dict[str, Field] = {}
    findings: tuple[Finding, ...] = ()
    if source is not None:
        changed["tokenizer.chat_template"] = string("tokenizer.chat_template", source.jinja)
    if stops is not None:
        slots, findings = _slots(summary.metadata, stops)
        changed |= {
            f"tokenizer.ggml.{name}_token_id": uint32(f"tokenizer.ggml.{name}_token_id", value)
            for name, value in slots.items()
        }
    left_out = {"general.file_type", "general.quantization_version", *changed}
    kept = [
        StoredField.of(key, value, data[slice(*summary.spans[key])].tobytes())
        for key, value in summary.metadata.items()
        if key not in left_out
    ]
    return (*kept, *changed.values()), findings


def _slots(metadata: Mapping[str, Any], stops: Stops) -> tuple[Mapping[str, int], tuple[Finding, ...]]:
    tokens = metadata.get(_TOKENS)
    eos = metadata.get("tokenizer.ggml.eos_token_id")
    if not isinstance(tokens, list):
        return {}, ()
    return stop_slots(stops.ids, eos if isinstance(eos, int) else None, tokens)
