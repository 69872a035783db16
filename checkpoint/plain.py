"""The weights of a checkpoint as plain matrices under their published names, however they were saved.

Experts that were saved as one tensor come one by one, 8-bit floats come times their scales. Does not know
what a tensor is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from checkpoint.fp8 import Scale, belongs_to_fp8, find_scales, holds_fp8, scaled
from checkpoint.fused_experts import split_experts
from checkpoint.model import Checkpoint
from checkpoint.rows import Rows
from checkpoint.safetensors import TensorInfo
from checkpoint.weights import Weights

__all__ = ["PlainWeights"]


@dataclass(frozen=True, eq=False)
class PlainWeights:
    """All matrices and vectors of a checkpoint; scales are not among them."""

    weights: Weights
    scales: Mapping[str, Scale]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> PlainWeights:
        """Look at the names, types and shapes of `checkpoint`. Raises `CheckpointFlaw` for 8-bit floats whose
        scale is not understood."""
        config = checkpoint.config
        tensors = split_experts(config.architecture, checkpoint.weights)
        scales = {}
        if holds_fp8(config, tensors.values()):
            scales = find_scales(config, tensors)
            tensors = {name: info for name, info in tensors.items() if not belongs_to_fp8(name)}
        listed = {**tensors, **{scale.info.name: scale.info for scale in scales.values()}}
        return cls(checkpoint.weights.renamed(listed), scales)

    def __contains__(self, name: object) -> bool:
        return name in self.weights

    def __iter__(self) -> Iterator[TensorInfo]:
        hidden = {scale.info.name for scale in self.scales.values()}
        return (info for info in self.weights if info.name not in hidden)

    def rows(self, name: str) -> Rows:
        """Return tensor `name` to be read by rows."""
        rows = self.weights.rows(name)
        if name not in self.scales:
            return rows
        scale = self.scales[name]
        return scaled(rows, scale, self.weights.raw(scale.info.name))
