"""How much memory a serving takes, estimated before it is started, and how much there is.

    weights   of the file that is really loaded: the GGUF file, or parameters x bytes of the dtype
    KV cache  2 x layers x KV heads x head size x bytes x tokens the engine reserves (GQA: few KV heads)
    engine    what the engine itself takes, measured with a small model

Sliding windows and quantized caches of engines that do not say so are not counted: the estimate is an upper
bound there. Reads flags as they stand in the plan, so that what the user gave after `--` counts. Does not
start anything.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from checkpoint import ModelConfig
from checkpoint.gguf import read_header
from deploy.artifacts import GgufArtifact
from deploy.engines.accelerators import Accelerators, find_accelerators
from deploy.engines.base import ServePlan
from deploy.engines.ollama_model import CreateModel
from errors import ConversionError

__all__ = ["MemoryNeed", "available_memory", "memory_need"]

Place = Literal["RAM", "GPU"]

_ENGINE = {"llamacpp": 200 * 2**20, "ollama": 300 * 2**20, "vllm": 1536 * 2**20, "lmdeploy": 1536 * 2**20}
"""Bytes beyond weights and cache. llama.cpp took 64 MB with a vocabulary of 49,152 tokens and takes more with
larger ones; the others hold torch and the like."""
_GPU_SHARE = {"vllm": ("--gpu-memory-utilization", 0.9), "lmdeploy": ("--cache-max-entry-count", 0.8)}
"""Which part of a GPU's memory is reserved, whatever the model: vLLM's of all, LMDeploy's of what the weights
leave."""
_CACHE_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32} | {
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
"""Bytes of one number in llama.cpp's cache, by --cache-type-k and -v."""
_DTYPE_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes, by what takes them."""

    weights: int
    cache: int
    engine: int
    place: Place = "RAM"
    given: int | None = None
    """What the user says it takes, instead."""

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.engine if self.given is None else self.given

    def as_json(self) -> dict[str, Any]:
        parts = {"weights": self.weights, "kv_cache": self.cache, "engine": self.engine}
        return {"bytes": self.total, "place": self.place, **(parts if self.given is None else {})}


def memory_need(plan: ServePlan, given: int | None = None) -> MemoryNeed:
    """Estimate what serving `plan` takes; `given` bytes are taken for granted."""
    found = find_accelerators()
    on_gpu = plan.engine in _GPU_SHARE and plan.runtime != "cpu" and found.kind != "none"
    place: Place = "GPU" if on_gpu else "RAM"
    weights, engine = _weights(plan), _ENGINE.get(plan.engine, 0)
    cache = _reserved(plan, weights, found) if on_gpu else round(_cache(plan))
    return MemoryNeed(weights, cache, engine, place, given)


def available_memory(place: Place) -> tuple[int, int]:
    """Return (bytes free now, bytes in all): what a process may take, in a container too; of all GPUs."""
    if place == "GPU":
        found = find_accelerators()
        total = found.count * (found.memory or 0)
        return total, total
    fields = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            fields[name] = int(rest.split()[0]) * 1024
    total = fields.get("MemTotal", 0)
    free = fields.get("MemAvailable", total)
    limit, used = _cgroup()
    return (free, total) if limit is None else (min(free, limit - used), min(total, limit))


def kv_bytes_per_token(config: ModelConfig, width: float) -> float:
    """Return the bytes of one token in a KV cache whose numbers take `width` bytes."""
    text = {**config.raw, **_mapping(config.raw.get("text_config"))}
    latent, rope = text.get("kv_lora_rank"), text.get("qk_rope_head_dim")
    if isinstance(latent, int) and isinstance(rope, int):  # multi-head latent attention keeps one vector
        return config.layers * (latent + rope) * width
    return 2 * config.layers * config.kv_heads * config.head_dim * width


def _weights(plan: ServePlan) -> int:
    if isinstance(plan.artifact, GgufArtifact):
        return plan.artifact.bytes
    if plan.checkpoint is None:
        return plan.served.stat().st_size if plan.served.is_file() else 0
    weights = plan.checkpoint.weights
    dtype = _flag(plan.argv, "--dtype") or "auto"
    if plan.checkpoint.config.quantization is not None:
        return weights.bytes
    # auto: as they are stored, float32 as half
    return (
        weights.parameters * _DTYPE_BYTES[dtype]
        if dtype in _DTYPE_BYTES
        else (min(weights.bytes, 2 * weights.parameters))
    )


def _cache(plan: ServePlan) -> float:
    """Return the bytes of the KV cache in the machine's memory."""
    if plan.engine == "vllm":
        space = plan.env.get("VLLM_CPU_KVCACHE_SPACE") or os.environ.get("VLLM_CPU_KVCACHE_SPACE") or "4"
        return float(space) * 2**30 if space.replace(".", "", 1).isdigit() else 0.0
    if plan.engine == "ollama":
        tokens = _ollama_tokens(plan)
        return 0.0 if plan.checkpoint is None else tokens * kv_bytes_per_token(plan.checkpoint.config, 2.0)
    if plan.engine != "llamacpp":
        return 0.0
    key, value = (
        _CACHE_BYTES.get(_flag(plan.argv, f"--cache-type-{name}", f"-ct{name}") or "f16", 2.0)
        for name in "kv"
    )
    context = _flag(plan.argv, "--ctx-size", "-c", "--n_ctx") or "0"
    tokens = int(context) if context.isdigit() else 0
    if plan.checkpoint is not None:
        config = plan.checkpoint.config
        return (tokens or config.context_length) * kv_bytes_per_token(config, (key + value) / 2)
    return _cache_of_gguf(plan.served, tokens, key, value)


def _cache_of_gguf(path: Path, tokens: int, key: float, value: float) -> float:
    """The same from a GGUF file's metadata; 0 where it does not tell."""
    try:
        metadata = read_header(path).metadata
    except (ConversionError, OSError):
        return 0.0
    architecture = metadata.get("general.architecture")

    def number(name: str, default: int = 0) -> int:
        found = metadata.get(f"{architecture}.{name}", default)
        return found if isinstance(found, int) else default

    layers, heads = number("block_count"), number("attention.head_count", 1)
    size = number("embedding_length") // max(1, heads)
    kv_heads = metadata.get(f"{architecture}.attention.head_count_kv", heads)
    of_all = sum(kv_heads) if isinstance(kv_heads, list | tuple) else layers * int(kv_heads or heads)
    numbers = number("attention.key_length", size) * key + number("attention.value_length", size) * value
    return (tokens or number("context_length")) * of_all * numbers


def _ollama_tokens(plan: ServePlan) -> int:
    created = next((step for step in plan.steps if isinstance(step, CreateModel)), None)
    parameters = dict(created.modelfile.parameters) if created is not None else {}
    context = parameters.get("num_ctx") or os.environ.get("OLLAMA_CONTEXT_LENGTH") or 4096
    parallel = os.environ.get("OLLAMA_NUM_PARALLEL") or 1
    try:
        return int(context) * max(1, int(parallel))
    except ValueError:
        return 4096


def _reserved(plan: ServePlan, weights: int, found: Accelerators) -> int:
    """Return what an engine reserves on GPUs beyond its weights."""
    name, usual = _GPU_SHARE[plan.engine]
    memory = found.memory or 0
    try:
        share = float(_flag(plan.argv, name) or usual)
        split = int(_flag(plan.argv, "--tensor-parallel-size", "-tp", "--tp") or 1)
    except ValueError:
        share, split = usual, 1
    if plan.engine == "vllm":
        return max(0, round(share * memory * split) - weights - _ENGINE["vllm"])
    return round(share * max(0, memory * split - weights))


def _flag(argv: Sequence[str], *names: str) -> str | None:
    """Return the value of a flag in a command line; the last one wins."""
    value = None
    for word, following in zip(argv, (*argv[1:], ""), strict=True):
        name, equals, inline = word.partition("=")
        if name in names:
            value = inline if equals else following
    return value


def _cgroup() -> tuple[int | None, int]:
    """Return (limit, use) of the control group that this process is in, None without a limit."""
    for limit, usage, cached in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        root = Path("/sys/fs/cgroup")
        try:
            most, used = int((root / limit).read_text()), int((root / usage).read_text())
            stat = dict(line.split() for line in (root / cached).read_text().splitlines())
        except (OSError, ValueError):
            continue  # `max`, or the other version
        inactive = int(stat.get("inactive_file", stat.get("total_inactive_file", 0)))
        return (most, max(0, used - inactive)) if most < 2**60 else (None, 0)
    return None, 0


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
