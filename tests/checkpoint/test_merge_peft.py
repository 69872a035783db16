"""`plan_merge` and `run_merge` against peft's own merge_and_unload, tensor for tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint
from checkpoint.merge import plan_merge, run_merge
from tests.checkpoint.peft_oracle import merge_with_peft
from tests.checkpoint.torch_files import as_torch_files
from tests.checkpoints import write_random_weights

pytestmark = pytest.mark.engines

Make = Callable[..., Path]

_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "down_proj"]

CASES: Mapping[str, dict[str, Any]] = {
    "plain": {"r": 8, "lora_alpha": 16, "target_modules": _PROJECTIONS},
    "rslora": {"r": 8, "lora_alpha": 16, "target_modules": _PROJECTIONS, "use_rslora": True},
    "patterns": {
        "r": 8,
        "lora_alpha": 16,
        "target_modules": _PROJECTIONS,
        "rank_pattern": {"layers.1.self_attn.q_proj": 3, "down_proj": 5},
        "alpha_pattern": {"k_proj": 4, "layers.0.mlp.down_proj": 32},
    },
    "everything": {"r": 4, "target_modules": "all-linear", "exclude_modules": ["o_proj"]},
    "whole": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "embeddings": {"r": 4, "target_modules": ["embed_tokens", "lm_head", "o_proj"]},
}


def test_merging_is_pefts(make_checkpoint: Make, tmp_path: Path) -> None:
    bases = {
        "BF16": make_checkpoint("bf16", shards=2),
        "F16": make_checkpoint("f16", dtype="F16"),
        "F32": make_checkpoint("f32", dtype="F32"),
        "tied": make_checkpoint("tied", tied=True),
        "BIN": make_checkpoint("bin"),
        "GPT2": _gpt2(tmp_path / "gpt2"),
    }
    as_torch_files(bases["BIN"])
    conv1d = {"r": 4, "target_modules": ["c_attn", "c_fc", "c_proj"]}
    jobs = [_job(tmp_path, bases["BF16"], name, config) for name, config in CASES.items()]
    jobs += [_job(tmp_path, bases[name], "plain", CASES["plain"]) for name in ("F16", "F32", "tied", "BIN")]
    jobs += [_job(tmp_path, bases["tied"], "one", {"r": 4, "target_modules": ["embed_tokens"]})]
    jobs += [_job(tmp_path, bases["F32"], "torch", CASES["patterns"], torch=True)]
    jobs += [_job(tmp_path, bases["GPT2"], "conv1d", conv1d)]
    merge_with_peft(jobs)
    for job in jobs:
        place = tmp_path / "ours" / Path(job["merged"]).name
        run_merge(plan_merge(Path(job["base"]), Path(job["adapter"]), place, shard_bytes=400_000))
        _compare(place, Path(job["merged"]), Path(job["base"]))


def _job(
    tmp_path: Path, base: Path, name: str, config: Mapping[str, Any], *, torch: bool = False
) -> dict[str, Any]:
    label = f"{base.name}-{name}"
    return {
        "base": str(base),
        "config": config,
        "torch": torch,
        "adapter": str(tmp_path / "adapters" / label),
        "merged": str(tmp_path / "theirs" / label),
    }


def _gpt2(directory: Path) -> Path:
    """A model whose matrices are Conv1D's: stored as (inputs, outputs)."""
    directory.mkdir()
    values = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "vocab_size": 100,
        "torch_dtype": "float32",
        "tie_word_embeddings": True,
    }
    (directory / "config.json").write_text(json.dumps(values))
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (100, 64),
        "transformer.wpe.weight": (64, 64),
        "transformer.ln_f.weight": (64,),
        "transformer.ln_f.bias": (64,),
    }
    for layer in range(2):
        for name, shape in {"attn.c_attn": (64, 192), "attn.c_proj": (64, 64), "mlp.c_fc": (64, 256)}.items():
            shapes[f"transformer.h.{layer}.{name}.weight"] = shape
            shapes[f"transformer.h.{layer}.{name}.bias"] = shape[1:]
        shapes[f"transformer.h.{layer}.mlp.c_proj.weight"] = (256, 64)
        shapes[f"transformer.h.{layer}.mlp.c_proj.bias"] = (64,)
        for name in ("ln_1", "ln_2"):
            shapes[f"transformer.h.{layer}.{name}.weight"] = (64,)
            shapes[f"transformer.h.{layer}.{name}.bias"] = (64,)
    write_random_weights(directory, shapes, "F32")
    return directory


def _compare(ours: Path, theirs: Path, base: Path) -> None:
    one, other = Checkpoint.open(ours), Checkpoint.open(theirs)
    assert set(one.weights.names) == set(other.weights.names)
    assert one.weights.dtype == other.weights.dtype
    before = Checkpoint.open(base).weights
    changed = 0
    for name in one.weights.names:
        mine, peers = _values(one, name), _values(other, name)
        # peft rounds the product to the dtype before it is added: one unit of each in the last place
        unit = {"BF16": 2**-7, "F16": 2**-10, "F32": 2**-20}[one.weights.info(name).dtype]
        assert np.abs(mine - peers).max() <= 2 * unit * max(1e-3, float(np.abs(peers).max())), name
        changed += name not in before or not np.array_equal(mine, _values(Checkpoint.open(base), name))
    assert changed >= 1


def _values(checkpoint: Checkpoint, name: str) -> np.ndarray[Any, Any]:
    raw = checkpoint.weights.raw(name)
    if checkpoint.weights.info(name).dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)
