"""Base weights with an adapter merged in as they are read, and what of the config no longer holds then.

Knows that a head which is not stored is the embedding it is tied to, and that training may part the two or
resize both. Does not read an adapter's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from checkpoint.adapter import Adapter
from checkpoint.config import ModelConfig
from checkpoint.findings import CheckpointFlaw
from checkpoint.safetensors import TensorInfo
from checkpoint.weights import Weights

__all__ = ["HEADS", "adapted", "config_changes", "embedding_name", "head_name"]

HEADS = ("lm_head.weight", "output.weight", "embed_out.weight", "transformer.output_layer.weight")
_EMBEDDINGS = tuple(
    f"{name}.weight"
    for name in ("embed_tokens", "wte", "tok_embeddings", "embed_in", "word_embeddings", "word_embedding")
)
_DTYPES = ("BF16", "F16", "F32")


def head_name(weights: Weights) -> str | None:
    """Return the name of the output matrix; None where none is stored."""
    return next((name for name in HEADS if name in weights), None)


def embedding_name(weights: Weights) -> str | None:
    """Return the name of the token embedding's matrix; None where no tensor has one of the known names."""
    return next((name for name in weights.names if name.endswith(_EMBEDDINGS)), None)


def adapted(weights: Weights, adapter: Adapter, path: Path) -> Weights:
    """Return `weights` with `adapter` merged in as they are read; its directory `path` is for messages.

    Raises `CheckpointFlaw` for an adapter of another model.
    """
    tensors = {**{name: weights.info(name) for name in weights.names}, **_tied_head(weights, adapter)}
    unknown = [name for name in (*adapter.pairs, *adapter.replaced) if name not in tensors]
    if unknown:
        raise _foreign(path, f"changes {unknown[0]}, which the base model does not have")
    tensors |= adapter.replaced
    for name, pair in adapter.pairs.items():
        stored = tensors[name]
        if pair.shape != stored.shape:
            what = f"changes {name} of shape {pair.shape}; the base model's is {stored.shape}"
            raise _foreign(path, what)
        if stored.dtype not in _DTYPES:
            raise CheckpointFlaw(
                "adapter-unsupported",
                f"The adapter in {path} changes {name}, which the base model stores as {stored.dtype}.",
                hint=f"Give the base model in one of {', '.join(_DTYPES)}.",
            )
    return weights.with_pairs(adapter.header, tensors, adapter.pairs)


def config_changes(base: ModelConfig, adapter: Adapter, weights: Weights) -> Mapping[str, Any]:
    """Return the entries of config.json that `weights`, with `adapter` merged in, make untrue.

    A head that was trained is tied no longer, unless it stayed the embedding; a vocabulary may have grown.
    """
    changes: dict[str, Any] = {}
    head, embedding = head_name(weights), embedding_name(weights)
    touched = {*adapter.pairs, *adapter.replaced}
    trained = head is not None and head in touched
    if base.tie_word_embeddings and trained and not _same(weights, adapter, head, embedding):
        changes["tie_word_embeddings"] = False
    whole = adapter.replaced.get(embedding) if embedding else None
    if whole is not None and len(whole.shape) == 2 and whole.shape[0] != base.vocab_size:
        changes["vocab_size"] = whole.shape[0]
    return changes


def _same(weights: Weights, adapter: Adapter, head: str | None, embedding: str | None) -> bool:
    """Whether a head that was trained whole is the embedding all the same, as peft saves tied ones."""
    import numpy as np

    if head is None or embedding is None or head in adapter.pairs or embedding in adapter.pairs:
        return False
    return np.array_equal(weights.raw(head), weights.raw(embedding))


def _tied_head(weights: Weights, adapter: Adapter) -> dict[str, TensorInfo]:
    """Return the head that `adapter` changes where none is stored: the embedding it was tied to."""
    embedding = embedding_name(weights)
    touched = {*adapter.pairs, *adapter.replaced}
    absent = [name for name in HEADS if name in touched and name not in weights]
    return {name: replace(weights.info(embedding), name=name) for name in absent} if embedding else {}


def _foreign(path: Path, what: str) -> CheckpointFlaw:
    return CheckpointFlaw(
        "adapter-foreign",
        f"The adapter in {path} {what}.",
        hint="Give the base model that the adapter was trained on.",
    )
