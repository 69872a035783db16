"""The accelerators of this machine, and over how many of them a model is split.

Asks `nvidia-smi`, or looks for Ascend's device files; loads no driver. Does not know engines.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from checkpoint import ModelConfig

__all__ = ["Accelerators", "divides", "find_accelerators", "tensor_parallel"]

WEIGHTS_SHARE = 0.7
"""Part of an accelerator's memory that weights may take; the rest is for the KV cache and activations."""


@dataclass(frozen=True)
class Accelerators:
    """What there is: `memory` in bytes of the smallest one, None where the system does not tell."""

    kind: Literal["none", "cuda", "ascend"]
    count: int = 0
    memory: int | None = None


def find_accelerators() -> Accelerators:
    """Return the accelerators that an engine started now would see."""
    program = shutil.which("nvidia-smi")
    memories = _nvidia(program) if program else []
    if memories:
        return Accelerators("cuda", len(memories), min(memories))
    boards = [path for path in Path("/dev").glob("davinci*") if path.name[len("davinci") :].isdigit()]
    visible = _visible("ASCEND_RT_VISIBLE_DEVICES")
    if boards:
        return Accelerators("ascend", len(boards) if visible is None else len(visible))
    return Accelerators("none")


def tensor_parallel(config: ModelConfig, size: int, found: Accelerators) -> tuple[int, str | None]:
    """Return over how many accelerators `size` bytes of weights are split, and a note where one can choose.

    The number divides the attention heads, and the key-value heads or their multiples, as engines demand; it
    is the smallest that leaves room for the KV cache, or the largest there is.
    """
    if found.count < 2 or found.memory is None:
        return 1, None
    fitting = [n for n in range(1, found.count + 1) if divides(config, n)]
    enough = [n for n in fitting if size / n <= WEIGHTS_SHARE * found.memory]
    chosen = enough[0] if enough else fitting[-1]
    each = f"{size / chosen / 2**30:.1f} of {found.memory / 2**30:.0f} GiB on each of {chosen}"
    if enough:
        return chosen, f"{found.count} GPUs: weights take {each}"
    return chosen, f"{found.count} GPUs: weights take {each}, which may be too much"


def divides(config: ModelConfig, count: int) -> bool:
    shared = config.kv_heads % count == 0 or count % config.kv_heads == 0
    return config.heads % count == 0 and shared


def _nvidia(program: str) -> list[int]:
    """Return the memory in bytes of every visible GPU."""
    command = [program, "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    visible = _visible("CUDA_VISIBLE_DEVICES")
    memories = []
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        index, uuid, memory = [*(part.strip() for part in line.split(",")), "", "", ""][:3]
        named = visible is None or index in visible or any(uuid.startswith(name) for name in visible)
        if named and memory.isdigit():
            memories.append(int(memory) << 20)
    return memories


def _visible(variable: str) -> list[str] | None:
    value = os.environ.get(variable)
    return None if value is None else [part.strip() for part in value.split(",") if part.strip()]
