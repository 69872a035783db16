"""A GGUF file read again: a sound one passes, and every damage is named by the check that finds it."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

from chat_templates import analyse_stops, load_source
from checkpoint import Checkpoint
from cli import main
from convert import GgufCheck, check_gguf, plan_conversion, read_gguf, run_conversion
from convert.finite import first_bad_block, is_judged
from convert.types import TENSOR_TYPES, TensorType
from errors import BadInput
from tests.checkpoints import edit_json

Make = Callable[..., Path]


@pytest.fixture
def directory(make_checkpoint: Make) -> Path:
    return make_checkpoint(layers=1)


@pytest.fixture
def model(directory: Path, tmp_path: Path) -> Path:
    """A sound file, with a manifest beside it."""
    checkpoint = Checkpoint.open(directory)
    source = load_source("checkpoint", checkpoint)
    stops = analyse_stops(source, checkpoint)
    plan = plan_conversion(checkpoint, ["q4_k_m"], tmp_path / "out", source=source, stops=stops)
    (file,) = run_conversion(plan)
    entries = [{"name": file.path.name, "sha256": file.sha256}]
    (file.path.parent / "manifest.json").write_text(json.dumps({"files": entries}))
    return file.path


def _failed(result: GgufCheck) -> dict[str, str]:
    return {check.name: " ".join(check.problems) for check in result.checks if check.ok is False}


def _patch(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(data)


def _place_of(path: Path, name: str) -> int:
    """Return where the type of tensor `name` stands in the header; its offset follows."""
    content = path.read_bytes()
    tensor = next(tensor for tensor in read_gguf(path).tensors if tensor.name == name)
    return (
        content.index(struct.pack("<Q", len(name)) + name.encode()) + 12 + len(name) + 8 * len(tensor.shape)
    )


def test_a_sound_file_passes_every_check(model: Path, directory: Path) -> None:
    checkpoint = Checkpoint.open(directory)
    source = load_source("checkpoint", checkpoint)
    seen: list[tuple[int, int]] = []
    result = check_gguf(
        model,
        template=source,
        stops=analyse_stops(source, checkpoint),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert result.ok
    states = {check.name: check.ok for check in result.checks}
    assert states.pop("shards") is None
    assert set(states) == {"structure", "layout", "metadata", "values", "sha256", "template", "stops"}
    assert all(states.values())
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > model.stat().st_size


@pytest.mark.parametrize(
    ("at", "data", "words"),
    [
        (0, b"GGML", "not a GGUF file"),
        (4, struct.pack("<I", 9), "version 9"),
        (8, struct.pack("<Q", 1 << 40), "claims to hold"),
        (24, struct.pack("<Q", 1 << 50), "ends too early"),
        (24 + 8 + len("general.architecture"), struct.pack("<I", 99), "unknown type 99"),
    ],
)
def test_a_damaged_header_is_named(model: Path, at: int, data: bytes, words: str) -> None:
    _patch(model, at, data)
    result = check_gguf(model)
    assert words in _failed(result)["structure"]
    assert "sha256" in _failed(result)
    assert {check.name: check.ok for check in result.checks}["values"] is None


def test_a_file_that_was_cut_off_is_named(model: Path) -> None:
    last = read_gguf(model).tensors[-1]
    with model.open("r+b") as stream:
        stream.truncate(last.offset + 10)
    failed = _failed(check_gguf(model))
    assert f"{last.name!r} lies beyond its end" in failed["structure"]


def test_bytes_after_the_last_tensor_are_named(model: Path) -> None:
    with model.open("ab") as stream:
        stream.write(bytes(5))
    assert "goes on for 5 bytes" in _failed(check_gguf(model))["layout"]


def test_a_wrong_offset_is_named(model: Path) -> None:
    name = "blk.0.ffn_up.weight"
    place = _place_of(model, name)
    offset = struct.unpack_from("<IQ", model.read_bytes(), place)[1]
    _patch(model, place + 4, struct.pack("<Q", offset - 32))
    assert f"{name!r} lies at byte" in _failed(check_gguf(model))["layout"]
    _patch(model, place + 4, struct.pack("<Q", offset - 7))
    assert f"{name!r} lies at byte" in _failed(check_gguf(model))["layout"]


def test_a_type_that_ggml_does_not_have_is_named(model: Path) -> None:
    _patch(model, _place_of(model, "blk.0.ffn_up.weight"), struct.pack("<I", 777))
    assert "is of type 777" in _failed(check_gguf(model))["layout"]


def test_a_scale_that_is_not_finite_is_named(model: Path) -> None:
    tensor = next(tensor for tensor in read_gguf(model).tensors if tensor.type == "Q6_K")
    kind = TENSOR_TYPES["Q6_K"]
    _patch(model, tensor.offset + 3 * kind.block_bytes + 208, np.float16(np.nan).tobytes())
    failed = _failed(check_gguf(model))
    assert (
        f"{tensor.name!r} (Q6_K) is not finite from block 3 (row {3 * 256 // tensor.shape[-1]})"
        in (failed["values"])
    )
    assert "lists" in failed["sha256"]


_UNREAD = {"F64", "Q1_0", "Q8_1", "Q8_K"}  # gguf has no dequantization of these
_ALL = [
    TensorType(kind.name, int(kind), *size)
    for kind, size in gguf.GGML_QUANT_SIZES.items()
    if is_judged(kind.name) and kind.name not in _UNREAD | {"I8", "I16", "I32", "I64"}
]


@pytest.mark.parametrize("kind", _ALL, ids=lambda kind: kind.name)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_every_type_is_judged_as_gguf_reads_it(kind: TensorType, value: float) -> None:
    """Bits at random: a block is bad exactly where what gguf makes of it is not finite."""
    chance = np.random.default_rng(3)
    data = chance.integers(0, 256, (600, kind.block_bytes), np.uint8)
    found = first_bad_block(data.reshape(-1), kind)
    with np.errstate(all="ignore"):
        back = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind.name])
    bad = ~np.isfinite(back.reshape(600, -1)).all(axis=1)
    assert found == (int(bad.argmax()) if bad.any() else None)


def test_another_digest_than_the_manifest_lists_is_named(model: Path) -> None:
    at = model.read_bytes().index(b"<|im_end|>")
    _patch(model, at, b"<|IM_END|>")
    failed = _failed(check_gguf(model))
    assert list(failed) == ["sha256"]
    assert hashlib.sha256(model.read_bytes()).hexdigest()[:16] in failed["sha256"]


def test_a_manifest_that_cannot_be_read_fails(model: Path) -> None:
    (model.parent / "manifest.json").write_text('{"files": 3}')
    assert "manifest" in _failed(check_gguf(model))["sha256"]


def test_another_template_and_other_stops_are_named(model: Path, directory: Path) -> None:
    edit_json(directory / "generation_config.json", eos_token_id=[5])
    checkpoint = Checkpoint.open(directory)
    other = load_source("family:llama3", checkpoint)
    failed = _failed(check_gguf(model, template=other, stops=analyse_stops(other, checkpoint)))
    assert "from character" in failed["template"]
    assert "would not stop on" in failed["stops"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("llama.block_count", struct.pack("<I", 3), "says it has 3 layers"),
        ("tokenizer.ggml.eos_token_id", struct.pack("<I", 4000), "eos_token_id is 4000"),
    ],
)
def test_metadata_that_contradicts_the_tensors_is_named(
    model: Path, key: str, value: bytes, words: str
) -> None:
    _patch(model, model.read_bytes().index(key.encode()) + len(key) + 4, value)
    assert words in _failed(check_gguf(model))["metadata"]


def test_any_damage_to_the_header_fails_and_never_raises(model: Path) -> None:
    content = model.read_bytes()
    end = read_gguf(model).tensors[0].offset
    chance = random.Random(4)
    for _ in range(150):
        damaged = bytearray(content)
        at = chance.randrange(end)
        damaged[at] ^= 1 << chance.randrange(8)
        model.write_bytes(damaged)
        assert not check_gguf(model).ok


def test_the_command_exits_1_and_says_why(model: Path, directory: Path, tmp_path: Path) -> None:
    arguments = ["gguf", "--check", str(model), "--checkpoint", str(directory)]
    fine = CliRunner().invoke(main, [*arguments, "--json"])
    assert (fine.exit_code, json.loads(fine.stdout)["ok"]) == (0, True)
    _patch(model, 0, b"GGML")
    broken = CliRunner().invoke(main, arguments)
    assert broken.exit_code == 1
    assert "✗ structure" in broken.stdout
    with pytest.raises(BadInput, match="no file"):
        check_gguf(tmp_path / "none.gguf")
