"""Weights: one file or shards, read without a copy; whatever is missing is said by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint, CheckpointFlaw, Weights
from checkpoint.weights import INDEX
from tests.checkpoints import edit_json, write_safetensors

Make = Callable[..., Path]


def _flaw(directory: Path) -> CheckpointFlaw:
    with pytest.raises(CheckpointFlaw) as caught:
        Weights.open(directory)
    return caught.value


def test_one_file_and_shards_hold_the_same(make_checkpoint: Make) -> None:
    one = Weights.open(make_checkpoint("one"))
    three = Weights.open(make_checkpoint("three", shards=3))
    assert one.names == three.names
    assert len(three.headers) == 3
    assert one.parameters == three.parameters == sum(one.info(name).elements for name in one.names)
    assert one.bytes == 2 * one.parameters
    assert one.dtype == "BF16"
    for name in one.names:
        assert np.array_equal(one.raw(name), three.raw(name))


@pytest.mark.parametrize(("dtype", "numpy"), [("BF16", "uint16"), ("F16", "float16"), ("F32", "float32")])
def test_raw_is_a_read_only_view(make_checkpoint: Make, dtype: str, numpy: str) -> None:
    weights = Weights.open(make_checkpoint(dtype=dtype))
    tensor = weights.raw("model.embed_tokens.weight")
    assert (tensor.dtype.name, tensor.shape) == (numpy, (271, 256))
    assert not tensor.flags.writeable
    assert not tensor.flags.owndata
    info = weights.info("model.embed_tokens.weight")
    assert tensor.tobytes() == info.file.read_bytes()[info.start : info.end]


def test_tensors_without_elements_and_unaligned_ones(tmp_path: Path) -> None:
    tensors: dict[str, tuple[str, np.ndarray[Any, Any]]] = {
        "odd": ("U8", np.arange(3, dtype=np.uint8)),
        "empty": ("F32", np.empty((4, 0), dtype=np.float32)),
        "unaligned": ("F32", np.arange(2, dtype=np.float32)),
        "float8": ("F8_E4M3", np.arange(4, dtype=np.uint8)),
        "float4": ("F4", np.empty((0,), dtype=np.uint8)),
    }
    write_safetensors(tmp_path / "model.safetensors", tensors)
    weights = Weights.open(tmp_path)
    assert weights.raw("empty").shape == (4, 0)
    assert weights.raw("unaligned").tolist() == [0, 1]
    assert weights.raw("float8").dtype == np.uint8
    with pytest.raises(CheckpointFlaw, match="F4"):
        weights.raw("float4")
    with pytest.raises(CheckpointFlaw, match="no tensor nothing"):
        weights.raw("nothing")


def test_the_fingerprint_follows_the_files(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    before = Weights.open(directory).fingerprint()
    assert Weights.open(directory).fingerprint() == before
    make_checkpoint(hidden=128)
    assert Weights.open(directory).fingerprint() != before


def test_a_missing_shard(make_checkpoint: Make) -> None:
    directory = make_checkpoint(shards=3)
    (directory / "model-00002-of-00003.safetensors").unlink()
    flaw = _flaw(directory)
    assert flaw.code == "shard-missing"
    assert "1 of the 3 shards" in flaw.message
    assert "model-00002-of-00003.safetensors" in flaw.message


def test_a_truncated_shard(make_checkpoint: Make) -> None:
    directory = make_checkpoint(shards=3)
    shard = directory / "model-00003-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])
    flaw = _flaw(directory)
    assert flaw.code == "shard-truncated"
    assert shard.name in flaw.message


def test_a_tensor_the_shard_does_not_hold(make_checkpoint: Make) -> None:
    directory = make_checkpoint(shards=2)
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"]["model.layers.7.mlp.up_proj.weight"] = "model-00001-of-00002.safetensors"
    (directory / INDEX).write_text(json.dumps(index))
    flaw = _flaw(directory)
    assert flaw.code == "tensor-missing"
    assert "model.layers.7.mlp.up_proj.weight" in flaw.message


BAD_SHARDS: tuple[object, ...] = (
    *(
        "../secret.safetensors",
        "/etc/x.safetensors",
        "sub/x.safetensors",
        "..",
        "",
        "x.bin",
        "a\0.safetensors",
    ),
    *("C:\\x.safetensors", "x" * 300 + ".safetensors", ["model.safetensors"], 7, None),
)


@pytest.mark.parametrize("shard", BAD_SHARDS)
def test_an_index_may_only_name_files_beside_it(make_checkpoint: Make, shard: object) -> None:
    directory = make_checkpoint(shards=2)
    edit_json(directory / INDEX, weight_map={"model.norm.weight": shard})
    flaw = _flaw(directory)
    assert flaw.code == "index-damaged"
    assert "model.norm.weight" in flaw.message


@pytest.mark.parametrize("weight_map", [None, {}, [], "x", 3])
def test_an_index_without_a_map(make_checkpoint: Make, weight_map: object) -> None:
    directory = make_checkpoint(shards=2)
    edit_json(directory / INDEX, weight_map=weight_map)
    assert _flaw(directory).code == "index-damaged"


def test_linked_shards_are_followed_and_loops_refused(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint()
    blob = tmp_path / "blobs" / "0123"
    blob.parent.mkdir()
    (directory / "model.safetensors").rename(blob)
    (directory / "model.safetensors").symlink_to(blob)  # as a hub cache lays it out
    assert Weights.open(directory).parameters
    blob.unlink()
    assert _flaw(directory).code == "link-broken"
    blob.symlink_to(directory / "model.safetensors")
    flaw = _flaw(directory)
    assert flaw.code == "unreadable"
    assert "model.safetensors" in flaw.message


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("pytorch_model-00001-of-00002.bin", "index-missing"),
        ("adapter_model.safetensors", "adapter-only"),
        ("model-00001-of-00002.safetensors", "index-missing"),
        ("notes.txt", "weights-missing"),
    ],
)
def test_directories_without_usable_weights(make_checkpoint: Make, name: str, code: str) -> None:
    directory = make_checkpoint()
    (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(b"x")
    flaw = _flaw(directory)
    assert flaw.code == code
    assert str(directory) in flaw.message
    assert flaw.hint


def test_a_file_that_shrinks_while_it_is_read(make_checkpoint: Make) -> None:
    checkpoint = Checkpoint.open(make_checkpoint())
    assert checkpoint.weights.names
    file = checkpoint.path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointFlaw, match="changed its size"):
        checkpoint.weights.raw("model.norm.weight")
