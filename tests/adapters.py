"""LoRA adapters for tests, as peft saves them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoint.torch_files import write_torch
from tests.checkpoints import write_safetensors

__all__ = ["MODULES", "Floats", "random_pairs", "write_adapter"]

Floats = np.ndarray[Any, np.dtype[np.float32]]

MODULES = {"model.layers.0.self_attn.q_proj": (256, 256), "model.layers.1.mlp.down_proj": (256, 512)}
"""Of `write_random_checkpoint`'s model: name -> (rows, columns)."""


def random_pairs(
    seed: int = 7, rank: int = 4, modules: Mapping[str, tuple[int, int]] = MODULES
) -> dict[str, tuple[Floats, Floats]]:
    """Return module -> (A of shape (rank, columns), B of shape (rows, rank))."""
    rng = np.random.default_rng(seed)
    return {
        module: (
            rng.normal(0, 0.1, (rank, columns)).astype(np.float32),
            rng.normal(0, 0.1, (rows, rank)).astype(np.float32),
        )
        for module, (rows, columns) in modules.items()
    }


def write_adapter(
    directory: Path,
    pairs: Mapping[str, tuple[Floats, Floats]],
    *,
    whole: Mapping[str, tuple[str, np.ndarray[Any, Any]]] | None = None,
    torch: bool = False,
    **config: Any,
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", **config}
    (directory / "adapter_config.json").write_text(json.dumps(values))
    tensors: dict[str, tuple[str, np.ndarray[Any, Any]]] = {}
    for module, (a, b) in pairs.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = ("F32", a)
        tensors[f"base_model.model.{module}.lora_B.weight"] = ("F32", b)
    for name, value in (whole or {}).items():
        tensors[f"base_model.model.{name}"] = value
    if torch:
        write_torch(directory / "adapter_model.bin", tensors)
    else:
        write_safetensors(directory / "adapter_model.safetensors", tensors)
    return directory
