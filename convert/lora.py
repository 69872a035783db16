"""A LoRA adapter as a GGUF file of its own, which llama.cpp and Ollama add to a base model's GGUF.

Every pair of matrices goes where the base model's tensor goes: the rows of B follow those of the tensor, in
Llama's q and k too, and a fused tensor that is cut cuts B. llama.cpp scales by alpha / rank, with one alpha
for the file; where training scaled otherwise (rslora, alpha_pattern) the difference goes into B. What a pair
of matrices cannot say (tensors trained whole, a tied head) is refused. The facts are those of llama.cpp's
convert_lora_to_gguf.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from checkpoint import Checkpoint, DerivedRows, ModelConfig, Rows, StoredRows
from checkpoint.adapter import Adapter, LoraPair, read_adapter
from convert.architectures import Family, TensorRule, experts_of, family_of
from convert.fields import Field, float32, string, uint32
from convert.metadata import QUANTIZATION_VERSION, described_fields
from convert.plan import ConversionPlan, FilePlan, file_label, output_directory
from convert.rows import stacked, taken, to_float32
from convert.split import ShardPlan
from convert.tensors import TensorSource
from convert.types import FILE_TYPES, TensorType, normalize_type, tensor_type
from convert.writer import OutputTensor
from errors import ConversionError, UsageError

__all__ = ["LORA_TYPES", "plan_lora"]

LORA_TYPES = ("f32", "f16", "bf16", "q8_0")
"""What llama.cpp reads adapters in."""

_MERGE = "Merge the adapter instead: leave out --adapter-only, or use `portside merge`."


def plan_lora(checkpoint: Checkpoint, types: Sequence[str], output_dir: Path | None = None) -> ConversionPlan:
    """Return the plan for ADAPTER-TYPE-LoRA.gguf; `checkpoint` is the base model with its adapter.

    Raises `UsageError` for a type that an adapter cannot have, `ConversionError` for what cannot be said by
    an adapter's file.
    """
    assert checkpoint.adapter is not None
    kinds = tuple(dict.fromkeys(normalize_type(kind) for kind in types))
    for kind in kinds:
        if kind not in LORA_TYPES:
            raise UsageError(
                f"An adapter is not written as {kind}.", hint=f"Choose one of {', '.join(LORA_TYPES)}."
            )
    directory = output_directory(checkpoint, output_dir)
    adapter = read_adapter(checkpoint.adapter)
    family = family_of(checkpoint.config.architecture)
    _refuse(checkpoint, adapter, family)
    alpha = float(adapter.config["lora_alpha"])
    sources = tuple(_sources(checkpoint, adapter, family, alpha))
    name = checkpoint.adapter.absolute().name
    fields = _fields(checkpoint.adapter.absolute(), family.name, name, sources, alpha)
    files = []
    for kind in kinds:
        path = directory / f"{file_label(name)}-{kind.upper()}-LoRA.gguf"
        tensors = tuple(OutputTensor(source.name, source.shape, _type(source, kind)) for source in sources)
        files.append(FilePlan(kind, (ShardPlan(path, fields, tensors),)))
    return ConversionPlan(
        checkpoint=checkpoint.path,
        fingerprint=checkpoint.weights.fingerprint(),
        name=name,
        architecture=checkpoint.config.architecture,
        sources=sources,
        files=tuple(files),
        findings=(),
        adapter=checkpoint.adapter,
    )


def _refuse(checkpoint: Checkpoint, adapter: Adapter, family: Family) -> None:
    base = Checkpoint.open(checkpoint.path)
    for name in adapter.replaced:
        # peft saves the matrix under a LoRA of an embedding too, mostly as the base model has it.
        if not (
            name in base.weights and np.array_equal(checkpoint.weights.raw(name), base.weights.raw(name))
        ):
            raise ConversionError(
                f"The adapter in {checkpoint.adapter} holds {name} as a whole, and an adapter's file holds "
                "only what is added.",
                hint=_MERGE,
            )
    for name in (family.head, family.embedding):
        if name in adapter.pairs and base.config.tie_word_embeddings:
            raise ConversionError(
                f"The adapter in {checkpoint.adapter} changes {name}, which the base model ties to another: "
                "llama.cpp would change both or neither.",
                hint=_MERGE,
            )


def _fields(
    adapter: Path, architecture: str, name: str, sources: Sequence[TensorSource], alpha: float
) -> tuple[Field, ...]:
    # A negative count is gguf's way to say that these are differences, which have no size of their own.
    pairs = zip(sources[::2], sources[1::2], strict=True)
    total = -sum(math.prod(b.shape[:-1]) * a.shape[-1] for a, b in pairs)
    return (
        string("general.architecture", architecture),
        string("general.type", "adapter"),
        string("adapter.type", "lora"),
        *described_fields(adapter, None, fallback=name, total=total),
        float32("adapter.lora.alpha", alpha),
        uint32("general.quantization_version", QUANTIZATION_VERSION),
    )


def _type(source: TensorSource, kind: str) -> TensorType:
    wanted = tensor_type(FILE_TYPES[kind].base)
    return wanted if wanted.fits(source.shape[-1]) else tensor_type("F16")


def _sources(
    checkpoint: Checkpoint, adapter: Adapter, family: Family, alpha: float
) -> Iterator[TensorSource]:
    """Yield A and B of every tensor of the GGUF that changes, one after the other."""
    places = _places(family, checkpoint.config)
    done: set[str] = set()
    for name in adapter.pairs:
        rules = places.get(name)
        if rules is None:
            raise ConversionError(
                f"The adapter in {checkpoint.adapter} changes {name}, which {checkpoint.config.architecture} "
                "has no place for in a GGUF file.",
                hint=_MERGE,
            )
        for place in rules:
            if place.target not in done:
                done.add(place.target)
                yield from _pair(checkpoint, adapter, family, place, alpha)


@dataclass(frozen=True)
class _Place:
    """A tensor of the GGUF file, and the stored ones that make it."""

    rule: TensorRule
    target: str
    names: tuple[str, ...]


def _places(family: Family, config: ModelConfig) -> Mapping[str, list[_Place]]:
    places: dict[str, list[_Place]] = {}
    for rule in family.rules:
        for layer in range(config.layers) if "{}" in rule.source else (0,):
            name = rule.source.replace("{}", str(layer))
            count = experts_of(config) if "{expert}" in name else 1
            names = tuple(name.replace("{expert}", str(expert)) for expert in range(count))
            place = _Place(rule, rule.target.replace("{}", str(layer)), names)
            for stored in names:
                places.setdefault(stored, []).append(place)
    return places


def _pair(
    checkpoint: Checkpoint, adapter: Adapter, family: Family, place: _Place, alpha: float
) -> Iterator[TensorSource]:
    missing = [name for name in place.names if name not in adapter.pairs]
    if missing:
        raise ConversionError(
            f"The adapter in {checkpoint.adapter} changes some tensors that {place.target} is made of, but "
            f"not {missing[0]}.",
            hint=_MERGE,
        )
    pairs = [adapter.pairs[name] for name in place.names]
    left = [_stored(checkpoint, pair, "a") for pair in pairs]
    right = [_scaled(_stored(checkpoint, pair, "b"), pair, alpha) for pair in pairs]
    if place.names == (family.embedding,):  # looked up by token, so its rows are the tokens'
        left = [_Transposed(rows) for rows in left]
    elif place.rule.make is not None:
        order = _order(checkpoint, place, right[0].shape[0])
        right = [taken(rows, order) for rows in right]
    several = len(place.names) > 1
    yield TensorSource(f"{place.target}.lora_a", stacked(left) if several else left[0])
    yield TensorSource(f"{place.target}.lora_b", stacked(right) if several else right[0])


def _order(checkpoint: Checkpoint, place: _Place, count: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Return which rows of the stored tensor make that of the GGUF file, found by moving their numbers."""
    assert place.rule.make is not None
    numbers = StoredRows(place.names, "F32", np.arange(count, dtype=np.float32).reshape(count, 1))
    try:
        moved = place.rule.make([numbers], checkpoint.config)
        found = moved.read(0, moved.shape[0]) if moved.shape[1:] == (1,) else None
    except (ConversionError, ValueError, IndexError):
        found = None
    order = None if found is None else found.reshape(-1).astype(np.intp)
    if order is None or len(set(order.tolist())) != len(order) or (order >= count).any() or (order < 0).any():
        raise ConversionError(
            f"The rows of {place.names[0]} do not stay rows in {place.target}, so no pair of matrices says "
            "what the adapter adds there.",
            hint=_MERGE,
        )
    return order


def _stored(checkpoint: Checkpoint, pair: LoraPair, which: str) -> Rows:
    info = pair.a if which == "a" else pair.b
    return StoredRows((info.name,), info.dtype, checkpoint.weights.view(info))


def _scaled(rows: Rows, pair: LoraPair, alpha: float) -> Rows:
    """Return B so that alpha / rank times B A is what training added."""
    factor = pair.scale * pair.a.shape[0] / alpha
    return rows if math.isclose(factor, 1, rel_tol=1e-12) else _Scaled(rows, factor)


@dataclass(frozen=True, eq=False)
class _Scaled(DerivedRows):
    factor: float

    @property
    def dtype(self) -> str:
        return "F32"

    def read(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        scaled: np.ndarray[Any, Any] = to_float32(self.rows.read(start, stop), self.rows.dtype) * np.float32(
            self.factor
        )
        return scaled


@dataclass(frozen=True, eq=False)
class _Transposed(DerivedRows):
    """A small matrix whose columns are wanted as rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape[::-1]

    def read(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        return self.rows.read(0, self.rows.shape[0])[:, start:stop].T
