"""A LoRA adapter merged while the weights are read equals the checkpoint that was merged beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint, CheckpointFlaw
from convert import plan_conversion, run_conversion
from tests.adapters import Floats, random_pairs, write_adapter
from tests.checkpoints import write_safetensors

Make = Callable[..., Path]


def _merged(base: Path, target: Path, pairs: Mapping[str, tuple[Floats, Floats]], scale: float) -> Path:
    """Write the checkpoint that peft would: each matrix plus scale times B A, in bfloat16."""
    weights = Checkpoint.open(base).weights
    tensors = {info.name: (info.dtype, weights.raw(info.name).copy()) for info in weights}
    for module, (a, b) in pairs.items():
        _, bits = tensors[f"{module}.weight"]
        values = (bits.astype(np.uint32) << 16).view(np.float32) + np.float32(scale) * (b @ a)
        wide = values.view(np.uint32)
        nearest = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype(np.uint16)
        tensors[f"{module}.weight"] = ("BF16", nearest)
    target.mkdir()
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    write_safetensors(target / "model.safetensors", tensors)
    return target


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4.0),
        ({"alpha_pattern": {"q_proj": 1, "down_proj": 1}}, 0.25),
        ({"r": 9, "rank_pattern": {"layers.7.q_proj": 1, "self_attn.q_proj": 4, "mlp.down_proj$": 4}}, 2.0),
    ],
)
@pytest.mark.parametrize("torch", [False, True])
def test_merging_while_reading(
    make_checkpoint: Make, tmp_path: Path, config: dict[str, Any], scale: float, torch: bool
) -> None:
    base, pairs = make_checkpoint("base"), random_pairs()
    adapter = write_adapter(tmp_path / "adapter", pairs, torch=torch, **config)
    weights = Checkpoint.open(base).with_adapter(adapter).weights
    expected = Checkpoint.open(_merged(base, tmp_path / "merged", pairs, scale)).weights
    for info in expected:
        rows, count = weights.rows(info.name), math.prod(info.shape[:-1])
        ours, theirs = rows.read(0, count), expected.raw(info.name).reshape(count, -1)
        changed = info.name.removesuffix(".weight") in pairs
        # sums of products may be rounded in another order: one unit in the last place of a bfloat16
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= (1 if changed else 0)
        before = Checkpoint.open(base).weights.raw(info.name).reshape(count, -1)
        assert changed == (not np.array_equal(ours, before))


def test_a_conversion_with_an_adapter(make_checkpoint: Make, tmp_path: Path) -> None:
    base = make_checkpoint("base")
    adapter = write_adapter(tmp_path / "adapter", random_pairs())
    checkpoint = Checkpoint.open(base)
    plain = run_conversion(plan_conversion(checkpoint, ["q8_0"], tmp_path / "plain"))
    plan = plan_conversion(checkpoint.with_adapter(adapter), ["q8_0"], tmp_path / "tuned")
    tuned = run_conversion(plan)
    assert plan.as_json()["adapter"] == str(adapter)
    assert tuned[0].bytes == plain[0].bytes
    assert tuned[0].sha256 != plain[0].sha256


def test_tensors_that_were_trained_whole(make_checkpoint: Make, tmp_path: Path) -> None:
    base = make_checkpoint("base")
    head = np.full((271, 256), 0x3F80, np.uint16)
    adapter = write_adapter(
        tmp_path / "adapter", {}, whole={"lm_head.modules_to_save.default.weight": ("BF16", head)}
    )
    weights = Checkpoint.open(base).with_adapter(adapter).weights
    assert np.array_equal(weights.rows("lm_head.weight").read(0, 271), head)
    assert weights.fingerprint() != Checkpoint.open(base).weights.fingerprint()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type = 'LOHA'"),
        ({"use_dora": True}, "use_dora = 'True'"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"fan_in_fan_out": True}, "of shape \\(512, 256\\); the base model's is \\(256, 512\\)"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights = 'pissa_niter_16'"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"r": 8}, "the rank is 8"),
        ({"r": "many"}, "r = 'many'"),
        ({"lora_alpha": -1}, "lora_alpha = '-1'"),
        ({"rank_pattern": {"(a+)+": 4}}, "more than a name"),
    ],
)
def test_what_is_not_merged_exactly_is_refused(
    make_checkpoint: Make, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", random_pairs(), **config)
    with pytest.raises(CheckpointFlaw, match=message):
        _ = Checkpoint.open(make_checkpoint()).with_adapter(adapter).weights


def test_adapters_of_another_model(make_checkpoint: Make, tmp_path: Path) -> None:
    base = Checkpoint.open(make_checkpoint())

    def message(pairs: Mapping[str, tuple[Floats, Floats]], **more: Any) -> str:
        adapter = write_adapter(tmp_path / "adapter", pairs, **more)
        with pytest.raises(CheckpointFlaw) as caught:
            _ = base.with_adapter(adapter).weights
        return caught.value.message

    a, b = np.ones((4, 256), np.float32), np.ones((256, 4), np.float32)
    assert "does not have" in message({"model.layers.9.self_attn.q_proj": (a, b)})
    assert "the base model's is (128, 256)" in message({"model.layers.0.self_attn.k_proj": (a, b)})
    odd = {"model.layers.0.self_attn.q_proj.lora_magnitude_vector": ("F32", np.ones(4, np.float32))}
    assert "does not know how to merge" in message({}, whole=odd)
    one = {"model.layers.0.self_attn.q_proj.lora_A.weight": ("F32", a)}
    assert "only one of the two" in message({}, whole=one)
    with pytest.raises(CheckpointFlaw, match="no adapter_config"):
        _ = base.with_adapter(tmp_path).weights
