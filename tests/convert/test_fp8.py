"""Weights in 8-bit floats times their scales, experts stored as one tensor, and what of both is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint, CheckpointFlaw, PlainWeights, Weights, survey
from checkpoint.fp8 import _numbers
from convert import plan_conversion
from errors import ConversionError
from tests.checkpoints import edit_json, write_random_checkpoint, write_safetensors
from tests.fp8_checkpoints import FP8_FORMS, fuse_experts, to_fp8
from tests.native_families import write_native

_NAME = "model.layers.0.mlp.down_proj.weight"


def _checkpoint(directory: Path) -> Path:
    return write_random_checkpoint(directory, hidden=192, heads=2, intermediate=320, layers=1, tied=True)


def test_the_numbers_of_both_formats() -> None:
    e4m3, e5m2 = _numbers("F8_E4M3"), _numbers("F8_E5M2")
    assert [e4m3[code] for code in (0x01, 0x07, 0x08, 0x38, 0x7E, 0xB8)] == [
        2**-9,
        7 / 512,
        2**-6,
        1,
        448,
        -1,
    ]
    assert [e5m2[code] for code in (0x01, 0x04, 0x3C, 0x7B, 0xFC)] == [2**-16, 2**-14, 1, 57344, -np.inf]
    assert np.isnan(e4m3[[0x7F, 0xFF]]).all()
    assert np.isnan(e4m3).sum() == 2
    assert np.isnan(e5m2).sum() == 6


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize("form", FP8_FORMS)
def test_rows_are_numbers_times_scales(form: str, dtype: str, tmp_path: Path) -> None:
    directory = to_fp8(_checkpoint(tmp_path / "model"), form, dtype=dtype)
    weights = Checkpoint.open(directory).weights
    plain = PlainWeights.of(Checkpoint.open(directory))
    rows = plain.rows(_NAME)
    codes, scale = weights.raw(_NAME), _scale(weights, form)
    down = {"block": 128, "small block": 64, "channel": 1, "tensor": 192}[form]
    across = {"channel": 320, "tensor": 320}.get(form, 128)
    expected = np.empty(codes.shape, np.float32)
    for row in range(codes.shape[0]):
        for first in range(0, codes.shape[1], across):
            factor = scale[row // down, first // across]
            expected[row, first : first + across] = (
                _numbers(dtype)[codes[row, first : first + across]] * factor
            )
    assert (rows.dtype, rows.shape) == ("F32", (192, 320))
    for start, stop in ((0, 0), (0, 192), (100, 140), (127, 129), (191, 192)):
        assert np.array_equal(rows.read(start, stop), expected[start:stop])
    assert not any("scale" in info.name for info in plain)


def _scale(weights: Weights, form: str) -> np.ndarray[Any, Any]:
    stored = weights.raw(_NAME + ("_scale_inv" if "block" in form else "_scale"))
    if form == "channel":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.reshape(stored.shape or (1, 1))


def _without_scale(directory: Path) -> None:
    _rewrite(directory, lambda name, stored: None if name == f"{_NAME}_scale_inv" else stored)


def _short_scale(directory: Path) -> None:
    _rewrite(directory, lambda name, stored: stored if "scale" not in name else (stored[0], stored[1][:1]))


def _other_format(directory: Path) -> None:
    _rewrite(directory, lambda name, stored: stored if name != _NAME else ("F8_E4M3FNUZ", stored[1]))


def _config(**changes: Any) -> Callable[[Path], None]:
    return lambda directory: edit_json(directory / "config.json", quantization_config=changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_scale, r"down_proj\.weight is stored as F8_E4M3 without a scale"),
        (_short_scale, r"is no scale that Portside knows for .* of shape"),
        (_other_format, "F8_E4M3FNUZ; of fp8 F8_E4M3 and F8_E5M2"),
        (_config(quant_method="fp8", weight_block_size=[64, 64]), "is no scale that Portside knows"),
        (_config(quant_method="fp8", weight_block_size="128"), "as the size of a block"),
        (
            _config(quant_method="fp8", config_groups={"a": {"weights": {"block_structure": [0, 1]}}}),
            "as the size of a block",
        ),
        (_config(quant_method="compressed-tensors", transform_config={"a": 1}), "rotated"),
    ],
)
def test_what_is_not_understood_is_refused(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    directory = to_fp8(_checkpoint(tmp_path / "model"), "block")
    damage(directory)
    with pytest.raises(CheckpointFlaw, match=message):
        plan_conversion(Checkpoint.open(directory), ["q8_0"], tmp_path)


def test_other_methods_stay_refused(tmp_path: Path) -> None:
    directory = to_fp8(_checkpoint(tmp_path / "model"), "block")
    edit_json(directory / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ConversionError, match=r"quantized \(gptq\)"):
        plan_conversion(Checkpoint.open(directory), ["q8_0"], tmp_path)


def test_a_survey_tells_of_fp8(tmp_path: Path) -> None:
    directory = to_fp8(_checkpoint(tmp_path / "model"), "block")
    found = {finding.code: finding.severity for finding in survey(directory).findings}
    assert found["fp8-weights"] == "info"
    assert "quantized-weights" not in found


@pytest.mark.parametrize("architecture", ["MixtralForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"])
def test_experts_stored_as_one_tensor_are_the_same(architecture: str, tmp_path: Path) -> None:
    directory = write_native(tmp_path / "model", architecture, num_hidden_layers=1)
    separate = _digests(directory)
    assert _digests(fuse_experts(directory)) == separate
    names = Checkpoint.open(directory).weights.names
    assert "model.layers.0.mlp.experts.gate_up_proj" in names


def _digests(directory: Path) -> dict[str, str]:
    plan = plan_conversion(Checkpoint.open(directory), ["bf16"], directory.parent)
    return {
        source.name: hashlib.sha256(
            source.rows.read(0, int(np.prod(source.shape[:-1]))).tobytes()
        ).hexdigest()
        for source in plan.sources
    }


def _rewrite(directory: Path, change: Callable[[str, Any], Any]) -> None:
    weights = Checkpoint.open(directory).weights
    stored = {info.name: change(info.name, (info.dtype, weights.raw(info.name))) for info in weights}
    path = directory / "changed"
    write_safetensors(path, {name: value for name, value in stored.items() if value is not None})
    path.replace(directory / "model.safetensors")
