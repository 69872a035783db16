"""A LoRA adapter as peft saves it, and the weights it makes of a base model's, row by row.

Knows adapter_config.json (rank, alpha, their patterns, rslora, modules_to_save) and the tensors of
adapter_model.safetensors or adapter_model.bin. What it cannot merge exactly (DoRA, trained biases, embeddings
with LoRA) it refuses. Does not know what the modules do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoint.findings import CheckpointFlaw
from checkpoint.jsonfile import file_size, read_object
from checkpoint.rows import DerivedRows
from checkpoint.safetensors import Header, TensorInfo, read_header
from checkpoint.torch_bin import read_torch_header

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Adapter", "LoraRows", "read_adapter"]

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
_PATTERN = re.compile(r"\^?[\w.\\]{1,200}\$?")
_MERGE_ELSEWHERE = "Merge it with the tool that trained it, and give Portside the merged checkpoint."


@dataclass(frozen=True)
class Adapter:
    """What an adapter changes, by the names of the base model's tensors."""

    header: Header
    pairs: Mapping[str, tuple[TensorInfo, TensorInfo, float]]
    """Tensor -> (A of shape (rank, columns), B of shape (rows, rank), the factor on their product)."""
    replaced: Mapping[str, TensorInfo]
    """Tensors that were trained whole (modules_to_save)."""


@dataclass(frozen=True, eq=False)
class LoraRows(DerivedRows):
    """A matrix plus `scale` times B A, in float32, rounded to the dtype of the matrix."""

    a: np.ndarray[Any, Any]
    """float32, (rank, columns)."""
    b: np.ndarray[Any, Any]
    """float32, (rows, rank)."""
    scale: float

    def read(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        import numpy as np

        stored = self.rows.read(start, stop)
        values = (stored.astype(np.uint32) << 16).view(np.float32) if self.dtype == "BF16" else stored
        merged = values.astype(np.float32) + (self.b[start:stop] @ self.a) * np.float32(self.scale)
        if self.dtype == "BF16":
            bits = merged.view(np.uint32)
            # to nearest, ties to even; a NaN or an infinity keeps its exponent, and is found later
            rounded: np.ndarray[Any, Any] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        else:
            with np.errstate(over="ignore"):
                rounded = merged.astype(stored.dtype)
        return rounded


def read_adapter(path: Path) -> Adapter:
    """Read the adapter in directory `path`. Raises `CheckpointFlaw`."""
    config = read_object(path / "adapter_config.json")
    if config is None:
        raise CheckpointFlaw(
            "no-adapter",
            f"{path} has no adapter_config.json, so it is not a LoRA adapter.",
            hint=_MERGE_ELSEWHERE,
        )
    _require_plain_lora(path, config)
    header = _header(path)
    left: dict[str, TensorInfo] = {}
    right: dict[str, TensorInfo] = {}
    replaced: dict[str, TensorInfo] = {}
    for name, info in header.tensors.items():
        module, kind = _parts(path, name)
        {"A": left, "B": right, "whole": replaced}[kind][module] = info
    if left.keys() != right.keys() or not (left or replaced):
        odd = sorted(left.keys() ^ right.keys())
        what = f"only one of the two matrices of {odd[0]}" if odd else "no LoRA matrices"
        raise CheckpointFlaw("adapter-damaged", f"{header.file} holds {what}.", hint=_MERGE_ELSEWHERE)
    pairs = {
        f"{module}.weight": (a, right[module], _scale(path, config, module, a, right[module]))
        for module, a in left.items()
    }
    return Adapter(header, pairs, replaced)


def _require_plain_lora(path: Path, config: Mapping[str, Any]) -> None:
    odd = [
        name
        for name, usual in (
            ("peft_type", "LORA"),
            ("use_dora", False),
            ("bias", "none"),
            ("lora_bias", False),
            ("fan_in_fan_out", False),
            ("use_qalora", False),
        )
        if config.get(name, usual) != usual
    ]
    if odd:
        raise CheckpointFlaw(
            "adapter-unsupported",
            f"{path / 'adapter_config.json'} has {odd[0]} = {str(config[odd[0]])[:40]!r}, which Portside "
            "does not merge.",
            hint=_MERGE_ELSEWHERE,
        )


def _header(path: Path) -> Header:
    for name in _FILES:
        if file_size(path / name) is not None:
            return read_torch_header(path / name) if name.endswith(".bin") else read_header(path / name)
    raise CheckpointFlaw(
        "weights-missing", f"{path} has neither {_FILES[0]} nor {_FILES[1]}.", hint="Copy the whole adapter."
    )


def _parts(path: Path, name: str) -> tuple[str, str]:
    """Return which tensor or module of the base model a tensor of the adapter belongs to, and as what."""
    inner = name.removeprefix(_PREFIX)
    for kind in ("A", "B"):
        for end in (f".lora_{kind}.weight", f".lora_{kind}.default.weight"):
            if inner.endswith(end):
                return inner.removesuffix(end), kind
    whole = inner.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".")
    if inner == name or "lora_" in inner or not whole.endswith((".weight", ".bias")):
        raise CheckpointFlaw(
            "adapter-unsupported",
            f"The adapter in {path} holds {name[:120]}, which Portside does not know how to merge.",
            hint=_MERGE_ELSEWHERE,
        )
    return whole, "whole"


def _scale(path: Path, config: Mapping[str, Any], module: str, a: TensorInfo, b: TensorInfo) -> float:
    """Return alpha / rank, or alpha / sqrt(rank) for rslora; patterns override both, as in peft."""
    rank = _number(path, config, "r", _matched(path, config.get("rank_pattern"), module))
    alpha = _number(path, config, "lora_alpha", _matched(path, config.get("alpha_pattern"), module))
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or a.shape[0] != rank:
        raise CheckpointFlaw(
            "adapter-damaged",
            f"The matrices of {module} in {path} have the shapes {a.shape} and {b.shape}, but the rank is "
            f"{rank:g}.",
            hint="adapter_config.json and the weights must come from the same training.",
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _matched(path: Path, patterns: Any, module: str) -> Any:
    """Return the value of the first pattern that fits the end of a module's name.

    peft takes them for regular expressions; names and anchors are what trainers write, and all that is read.
    """
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        if not _PATTERN.fullmatch(pattern):
            raise CheckpointFlaw(
                "adapter-unsupported",
                f"{path / 'adapter_config.json'} has the pattern {pattern[:60]!r}, which is more than a "
                "name.",
                hint=_MERGE_ELSEWHERE,
            )
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return None


def _number(path: Path, config: Mapping[str, Any], name: str, override: Any) -> float:
    value = config.get(name) if override is None else override
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise CheckpointFlaw(
            "adapter-damaged",
            f"{path / 'adapter_config.json'} has {name} = {str(value)[:40]!r}, where a positive number is "
            "needed.",
            hint=_MERGE_ELSEWHERE,
        )
    return float(value)
