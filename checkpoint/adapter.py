"""A LoRA adapter as peft saves it, and the weights it makes of a base model's, row by row.

Knows adapter_config.json (rank, alpha, their patterns, rslora, fan_in_fan_out, modules_to_save) and the
tensors of adapter_model.safetensors or adapter_model.bin. What it cannot merge exactly (DoRA, trained biases,
an initialisation that changed the base model) it refuses. Does not know what the modules do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoint.findings import CheckpointFlaw
from checkpoint.jsonfile import file_size, read_object
from checkpoint.rows import DerivedRows
from checkpoint.safetensors import Header, TensorInfo, read_header
from checkpoint.torch_bin import read_torch_header

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ADAPTER_CONFIG", "Adapter", "LoraPair", "LoraRows", "adapter_flaw", "read_adapter"]

ADAPTER_CONFIG = "adapter_config.json"

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
_PATTERN = re.compile(r"\^?[\w.\\]{1,200}\$?")
_MERGE_ELSEWHERE = "Merge it with the tool that trained it, and give Portside the merged checkpoint."
_FLOATS = ("BF16", "F16", "F32")
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations (init_lora_weights) that train against a base model of which the first factors were taken
off; the adapter is no difference to the original base model unless it was converted when it was saved."""


@dataclass(frozen=True)
class LoraPair:
    """The two factors of what is added to a matrix: `scale` times B A."""

    a: TensorInfo
    """Of shape (rank, inputs)."""
    b: TensorInfo
    """Of shape (outputs, rank)."""
    scale: float
    transposed: bool = False
    """The matrix is stored as (inputs, outputs): an embedding, or a Conv1D (fan_in_fan_out)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix as it is stored."""
        shape = self.b.shape[0], self.a.shape[1]
        return shape[::-1] if self.transposed else shape


@dataclass(frozen=True)
class Adapter:
    """What an adapter changes, by the names of the base model's tensors."""

    header: Header
    config: Mapping[str, Any]
    """adapter_config.json as it stands."""
    pairs: Mapping[str, LoraPair]
    """Tensor -> what is added to it."""
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


def adapter_flaw(directory: Path) -> CheckpointFlaw:
    """Return the error for a LoRA adapter that was given instead of a merged checkpoint."""
    return CheckpointFlaw(
        "adapter-only",
        f"{directory} holds a LoRA adapter, not a merged checkpoint.",
        hint=f"Merge it into its base model first, `portside merge BASE {directory} -o MERGED`, or convert "
        f"both at once, `portside gguf BASE --adapter {directory}`.{_base_named(directory)}",
    )


def _base_named(directory: Path) -> str:
    """Return which base model an adapter says it was trained on, as a sentence."""
    try:
        config = read_object(directory / ADAPTER_CONFIG) or {}
    except CheckpointFlaw:
        return ""
    name = config.get("base_model_name_or_path")
    return f" Its BASE is {name[:200]}." if isinstance(name, str) and name.isprintable() and name else ""


def read_adapter(path: Path) -> Adapter:
    """Read the adapter in directory `path`. Raises `CheckpointFlaw`."""
    config = read_object(path / ADAPTER_CONFIG)
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
    embeddings = set()
    for name, info in header.tensors.items():
        module, kind = _parts(path, name)
        if kind == "whole":
            replaced[module] = replace(info, name=module)
            continue
        (left if kind.endswith("A") else right)[module] = info
        if kind.startswith("embedding"):
            embeddings.add(module)
    if left.keys() != right.keys() or not (left or replaced):
        odd = sorted(left.keys() ^ right.keys())
        what = f"only one of the two matrices of {odd[0]}" if odd else "no LoRA matrices"
        raise CheckpointFlaw("adapter-damaged", f"{header.file} holds {what}.", hint=_MERGE_ELSEWHERE)
    pairs = {}
    for module, a in left.items():
        scale = _scale(path, config, module, a, right[module])
        transposed = module in embeddings or config.get("fan_in_fan_out") is True
        pairs[f"{module}.weight"] = LoraPair(a, right[module], scale, transposed)
    return Adapter(header, config, pairs, replaced)


def _require_plain_lora(path: Path, config: Mapping[str, Any]) -> None:
    odd = [
        name
        for name, usual in (
            ("peft_type", "LORA"),
            ("use_dora", False),
            ("bias", "none"),
            ("lora_bias", False),
            ("use_qalora", False),
            ("layer_replication", None),
            ("alora_invocation_tokens", None),
        )
        if config.get(name, usual) != usual
    ]
    if str(config.get("init_lora_weights")).lower().startswith(_CHANGES_BASE):
        odd.append("init_lora_weights")
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
        if inner.endswith(f".lora_embedding_{kind}"):
            return inner.removesuffix(f".lora_embedding_{kind}"), f"embedding_{kind}"
    whole = inner
    # The matrix under a LoRA of an embedding is saved too: it may have got more rows.
    for part in (".modules_to_save.default.", ".modules_to_save.", ".base_layer."):
        whole = whole.replace(part, ".")
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
    if a.dtype not in _FLOATS or b.dtype not in _FLOATS:
        raise CheckpointFlaw(
            "adapter-unsupported",
            f"The matrices of {module} in {path} are stored as {a.dtype} and {b.dtype}, not as one of "
            f"{', '.join(_FLOATS)}.",
            hint=_MERGE_ELSEWHERE,
        )
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
