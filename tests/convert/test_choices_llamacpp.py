"""Overrides, no mixture, and importance matrices: tensor for tensor what `llama_model_quantize` makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint
from convert import TYPES, Importance, TypeChoices, plan_conversion, read_importance, run_conversion
from convert.choices import read_overrides
from convert.types import FILE_TYPES
from tests.checkpoints import write_random_checkpoint
from tests.convert.gguf_bytes import tensor_digests
from tests.convert.imatrix_files import random_sums, write_imatrix_dat, write_imatrix_gguf
from tests.convert.oracle import quantize
from tests.native_families import write_native

pytestmark = pytest.mark.engines

_QUANTIZED = tuple(kind for kind in TYPES if kind not in ("f32", "f16", "bf16"))
_SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"layers": 17, "heads": 8},
    "odd-rows": {"hidden": 288, "intermediate": 544, "heads": 4, "kv_heads": 4, "layers": 9},
    "tied": {"architecture": "Qwen2ForCausalLM", "tied": True, "heads": 8, "layers": 9},
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "one": ("attn_v=q8_0",),
    "layers": (r"blk\.[1-3]\.ffn_down=q6_k", r"BLK\.(0|5)\.ATTN_V=q5_0"),
    "first-counts": ("ffn_=q4_1", "ffn_down=q8_0", "^output=bf16", "token_embd=f16"),
}


@pytest.mark.parametrize("choice", [*_CHOICES, "pure"])
@pytest.mark.parametrize("shape", _SHAPES)
def test_choices(shape: str, choice: str, tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path / "model", **_SHAPES[shape])
    overrides = read_overrides(_CHOICES.get(choice, ()))
    _same(directory, TypeChoices(overrides, pure=choice == "pure"), None, None, tmp_path)


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("legacy", [True, False])
def test_importance(shape: str, legacy: bool, tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path / "model", **_SHAPES[shape])
    _weighted(directory, legacy, "blk.1.ffn_up", tmp_path)


@pytest.mark.parametrize("architecture", ["MixtralForCausalLM", "Qwen2MoeForCausalLM"])
def test_importance_of_experts(architecture: str, tmp_path: Path) -> None:
    _weighted(write_native(tmp_path / "model", architecture), False, "blk.0.attn_q", tmp_path)


def _weighted(directory: Path, legacy: bool, without: str, work: Path) -> None:
    sums = random_sums(plan_conversion(Checkpoint.open(directory), ("q4_k_m",)), without=without)
    if legacy:
        importance = read_importance(write_imatrix_dat(work / "i.dat", sums, calls=3))
        means = {name: values / np.float32(3) for name, (values, _) in sums.items()}
    else:
        importance = read_importance(write_imatrix_gguf(work / "i.gguf", sums))
        means = {name: values / counts[:, None] for name, (values, counts) in sums.items()}
    numbers = work / "weights.npz"
    arrays: dict[str, Any] = {name: values.reshape(-1) for name, values in means.items()}
    np.savez(numbers, **arrays)
    _same(directory, TypeChoices(), importance, numbers, work)


def _same(
    directory: Path, choices: TypeChoices, importance: Importance | None, weights: Path | None, work: Path
) -> None:
    checkpoint = Checkpoint.open(directory)
    (source,) = run_conversion(plan_conversion(checkpoint, ("f32",), work / "source"))
    plan = plan_conversion(checkpoint, _QUANTIZED, work / "ours", choices=choices, importance=importance)
    ours = {file.type: file.path for file in run_conversion(plan)}
    theirs = {kind: work / f"{kind}.gguf" for kind in _QUANTIZED}
    quantize(
        source.path,
        [(FILE_TYPES[kind].number, path) for kind, path in theirs.items()],
        overrides=[(item.pattern.pattern, item.type.number) for item in choices.overrides],
        pure=choices.pure,
        weights=weights,
    )
    for kind, path in theirs.items():
        mine, other = _contents(ours[kind]), _contents(path)
        assert mine.keys() == other.keys()
        assert {name: (mine[name], other[name]) for name in mine if mine[name] != other[name]} == {}


def _contents(path: Path) -> dict[str, tuple[str, str]]:
    """Type and digest of every tensor."""
    return {name: (kind, digest) for name, (kind, _, digest) in tensor_digests(path).items()}
