"""The experts of a mixture as transformers 5 holds them in memory: one tensor of all of a layer.

It saves them under their published names, expert by expert, unless `save_pretrained` is called with
`save_original_format=False`: then `experts.gate_up_proj` of shape (experts, 2 x width, hidden), gate before
up, and `experts.down_proj` (experts, hidden, width) are stored. Each expert is a run of bytes in such a
tensor and is given its published name; nothing is copied. Does not know what experts do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from checkpoint.safetensors import TensorInfo

__all__ = ["split_experts"]

_PLAIN = ("mlp", "gate_proj", "up_proj", "down_proj")
_PUBLISHED = {
    "MixtralForCausalLM": ("block_sparse_moe", "w1", "w3", "w2"),
    "Qwen2MoeForCausalLM": _PLAIN,
    "Qwen3MoeForCausalLM": _PLAIN,
    "DeepseekV2ForCausalLM": _PLAIN,
    "DeepseekV3ForCausalLM": _PLAIN,
}
"""Architecture -> the folder of the experts, and the names of gate, up and down."""
_FUSED = re.compile(r"(model\.layers\.\d+)\.mlp\.experts\.(gate_up|down)_proj(_scale_inv|)")
_ROUTER = re.compile(r"(model\.layers\.\d+)\.mlp\.gate\.weight")


def split_experts(architecture: str, tensors: Iterable[TensorInfo]) -> dict[str, TensorInfo]:
    """Return name -> tensor with experts one by one, under the names that were published."""
    published = _PUBLISHED.get(architecture)
    found: dict[str, TensorInfo] = {}
    for info in tensors:
        parts = [info] if published is None else _parts(info, *published)
        found |= {part.name: part for part in parts}
    return found


def _parts(info: TensorInfo, folder: str, gate: str, up: str, down: str) -> Iterator[TensorInfo]:
    fused, router = _FUSED.fullmatch(info.name), _ROUTER.fullmatch(info.name)
    if fused and len(info.shape) == 3 and info.elements and not (fused[2] == "gate_up" and info.shape[1] % 2):
        names = (gate, up) if fused[2] == "gate_up" else (down,)
        count, rows, columns = info.shape
        size = info.nbytes // (count * len(names))
        for number in range(count * len(names)):
            expert, part = divmod(number, len(names))
            yield replace(
                info,
                name=f"{fused[1]}.{folder}.experts.{expert}.{names[part]}.weight{fused[3]}",
                shape=(rows // len(names), columns),
                start=info.start + number * size,
                end=info.start + (number + 1) * size,
            )
    else:
        yield replace(info, name=f"{router[1]}.{folder}.gate.weight") if router else info
