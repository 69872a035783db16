"""Checkpoints rewritten as others save them: weights in 8-bit floats with scales, experts as one tensor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from checkpoint import Checkpoint
from tests.checkpoints import edit_json, write_safetensors

__all__ = ["FP8_FORMS", "fuse_experts", "to_fp8"]

FP8_FORMS: dict[str, dict[str, Any]] = {
    "block": {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"},
    "small block": {"quant_method": "fp8", "weight_block_size": [64, 128]},
    "channel": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
    },
    "tensor": {"quant_method": "modelopt", "quant_algo": "FP8"},
}
"""How a scale lies over a matrix -> the quantization_config of those who save it so."""


def to_fp8(directory: Path, form: str, *, dtype: str = "F8_E4M3") -> Path:
    """Replace the weights of the projections in `directory` by random 8-bit floats and scales."""
    random = np.random.default_rng(3)
    weights = Checkpoint.open(directory).weights
    tensors: dict[str, tuple[str, np.ndarray[Any, Any]]] = {}
    for info in weights:
        tensors[info.name] = (info.dtype, weights.raw(info.name))
        if not re.fullmatch(r".*_proj(_with_mqa)?\.weight", info.name):
            continue
        magnitudes = random.integers(0, 0x70, info.shape, np.uint8)  # finite in both formats
        signs = random.integers(0, 2, info.shape, np.uint8) << 7
        tensors[info.name] = (dtype, magnitudes | signs)
        if form == "tensor":
            tensors[info.name.replace(".weight", ".input_scale")] = ("F32", np.ones((), np.float32))
        name, shape = _scale(info.name, info.shape, form)
        scale = (random.random(shape) * 1e-3 + 1e-4).astype(np.float32)
        if form == "channel":  # in bfloat16
            tensors[name] = ("BF16", (scale.view(np.uint32) >> 16).astype(np.uint16))
        else:
            tensors[name] = ("F32", scale)
    (directory / "model.safetensors").unlink()
    write_safetensors(directory / "model.safetensors", tensors)
    edit_json(directory / "config.json", quantization_config=FP8_FORMS[form])
    return directory


def _scale(name: str, shape: tuple[int, ...], form: str) -> tuple[str, tuple[int, ...]]:
    if form == "channel":
        return f"{name}_scale", (shape[0], 1)
    if form == "tensor":
        return f"{name}_scale", ()
    down, across = FP8_FORMS[form]["weight_block_size"]
    return f"{name}_scale_inv", (-(-shape[0] // down), -(-shape[1] // across))


_EXPERT = re.compile(
    r"(model\.layers\.\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight(_scale_inv|)"
)
_PARTS = {"gate_proj": 0, "w1": 0, "up_proj": 1, "w3": 1, "down_proj": None, "w2": None}


def fuse_experts(directory: Path) -> Path:
    """Store the experts of each layer in `directory` as transformers 5 does when it keeps its own format."""
    weights = Checkpoint.open(directory).weights
    tensors: dict[str, tuple[str, np.ndarray[Any, Any]]] = {}
    stacks: dict[str, dict[tuple[int, int], tuple[str, np.ndarray[Any, Any]]]] = {}
    for info in weights:
        stored = (info.dtype, weights.raw(info.name))
        found = _EXPERT.fullmatch(info.name)
        if found is None:
            tensors[info.name.replace(".block_sparse_moe.gate.", ".mlp.gate.")] = stored
            continue
        part = _PARTS[found[3]]
        name = f"{found[1]}.mlp.experts.{'down' if part is None else 'gate_up'}_proj{found[4]}"
        stacks.setdefault(name, {})[int(found[2]), part or 0] = stored
    for name, parts in stacks.items():
        arrays = [array for _, (_, array) in sorted(parts.items())]
        dtype, count = next(iter(parts.values()))[0], 1 + max(expert for expert, _ in parts)
        tensors[name] = (dtype, np.concatenate(arrays).reshape(count, -1, arrays[0].shape[-1]))
    (directory / "model.safetensors").unlink()
    write_safetensors(directory / "model.safetensors", tensors)
    return directory
