"""How a model is split over the GPUs of a cluster: tensor, pipeline and data parallel sizes, with reasons.

Knows sizes: weights, KV cache, heads, layers, memory. Tensor parallelism stays inside a machine, where GPUs
are joined closely; pipelines go from machine to machine; what is left serves further replicas. Does not know
engines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from checkpoint import ModelConfig
from deploy.engines.accelerators import divides
from errors import BadInput, UsageError

__all__ = ["CONVERSATIONS", "Cluster", "Parallel", "choose_parallel"]

USABLE = 0.9
"""Part of a GPU's memory that engines use (vLLM's --gpu-memory-utilization)."""
WORKING = 2.0e9
"""Bytes on each GPU for activations, CUDA and its graphs."""
CONVERSATIONS = 4
"""Conversations of full length that the KV cache of a replica should hold."""
KV_BYTES = 2
"""Of one number in the KV cache: engines keep it in 16 bits unless told otherwise."""


@dataclass(frozen=True)
class Cluster:
    """`nodes` machines with `gpus` GPUs each, of `memory` bytes; `gpus` 0: they compute on their CPUs."""

    nodes: int = 1
    gpus: int = 1
    memory: int | None = None


@dataclass(frozen=True)
class Parallel:
    """The sizes: GPUs that share a layer, machines that share the layers, replicas of the whole model."""

    tensor: int
    pipeline: int
    data: int
    reasons: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "tensor": self.tensor,
            "pipeline": self.pipeline,
            "data": self.data,
            "reasons": list(self.reasons),
        }


def choose_parallel(config: ModelConfig, weights: int, cluster: Cluster, context: int) -> Parallel:
    """Return the sizes for `weights` bytes and conversations of `context` tokens.

    The fewest GPUs in one machine that hold the weights and the KV cache of a few conversations; where a
    whole machine does not, the fewest machines. Raises `UsageError` where a size is missing that is
    needed, and `BadInput` for a model that does not fit.
    """
    if cluster.gpus == 0:
        return Parallel(1, 1, cluster.nodes, (f"no GPU: each of {cluster.nodes} machines has a replica",))
    if cluster.memory is None:
        if cluster.gpus * cluster.nodes == 1:
            return Parallel(1, 1, 1, ("one GPU; its memory was not given, so nothing was compared with it",))
        raise UsageError(
            "Over how many GPUs the model is split depends on their memory.",
            hint="Give it with --gpu-memory, such as 80G.",
        )
    cache = CONVERSATIONS * context * kv_bytes_per_token(config)
    room = int(USABLE * cluster.memory - WORKING)
    fitting = [n for n in range(1, cluster.gpus + 1) if divides(config, n)]
    facts = (
        f"weights {_gb(weights)}; KV cache {kv_bytes_per_token(config) / 1e3:.0f} kB a token, "
        f"{_gb(cache)} for {CONVERSATIONS} conversations of {context} tokens",
        f"each GPU of {_gb(cluster.memory)} has room for {_gb(room)}",
        f"tensor parallel sizes that {config.heads} heads and {config.kv_heads} KV heads allow: "
        f"{', '.join(map(str, fitting))}",
    )
    for need in (weights + cache, weights + cache // CONVERSATIONS):
        tensor = next((n for n in fitting if need <= n * room), None)
        if tensor is not None:
            return _inside(tensor, need, cluster, facts)
        nodes = next((p for p in range(2, cluster.nodes + 1) if need <= p * fitting[-1] * room), None)
        if nodes is not None and nodes <= config.layers:
            return _across(fitting[-1], nodes, need, cluster, facts)
    most = cluster.nodes * fitting[-1] * room
    raise BadInput(
        f"The model does not fit: {_gb(weights + cache // CONVERSATIONS)} for weights and one conversation "
        f"of {context} tokens, and {cluster.nodes} x {fitting[-1]} GPUs have room for {_gb(most)}.",
        hint="Give it more GPUs, a shorter --context, or quantize it.",
    )


def kv_bytes_per_token(config: ModelConfig) -> int:
    """Return the bytes of keys and values that one token leaves in all layers."""
    return 2 * config.layers * config.kv_heads * config.head_dim * KV_BYTES


def _inside(tensor: int, need: int, cluster: Cluster, facts: tuple[str, ...]) -> Parallel:
    data = cluster.nodes * (cluster.gpus // tensor)
    used = f"tensor parallel {tensor}: {_gb(need / tensor)} on each GPU"
    rest = f"data parallel {data}: {cluster.gpus // tensor} on each of {cluster.nodes} machines"
    return Parallel(tensor, 1, data, (*facts, used, rest))


def _across(tensor: int, nodes: int, need: int, cluster: Cluster, facts: tuple[str, ...]) -> Parallel:
    used = (
        f"tensor parallel {tensor} and pipeline parallel {nodes}: no machine holds it alone; "
        f"{_gb(need / tensor / nodes)} on each GPU"
    )
    return Parallel(
        tensor, nodes, cluster.nodes // nodes, (*facts, used, f"data parallel {cluster.nodes // nodes}")
    )


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
