"""The header reader, on files of this project, of gguf's own writer, and on damaged ones."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from checkpoint import Checkpoint
from convert import plan_conversion, read_gguf, run_conversion
from convert.reader import ArrayInfo
from errors import ConversionError

Make = Callable[..., Path]


@pytest.fixture
def model(make_checkpoint: Make, tmp_path: Path) -> Path:
    plan = plan_conversion(Checkpoint.open(make_checkpoint(layers=1)), ["q4_k_m"], tmp_path / "out")
    return run_conversion(plan)[0].path


def test_agrees_with_gguf_on_our_file(model: Path) -> None:
    ours, theirs = read_gguf(model, arrays="all"), gguf.GGUFReader(model)
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata == fields
    assert ours.architecture == "llama"
    assert "<|im_start|>" in (ours.chat_template or "")
    placed = [
        (tensor.name, tensor.shape, tensor.type, tensor.offset, tensor.bytes) for tensor in ours.tensors
    ]
    assert placed == [
        (
            tensor.name,
            tuple(int(size) for size in reversed(tensor.shape)),
            tensor.tensor_type.name,
            tensor.data_offset,
            tensor.n_bytes,
        )
        for tensor in theirs.tensors
    ]


def test_reads_what_gguf_writes(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_name("Ünïcode")
    writer.add_uint8("a.u8", 200)
    writer.add_int64("a.i64", -5)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_array("a.short", [1, 2, 3])
    writer.add_array("a.long", list(range(500)))
    writer.add_array("a.texts", ["x", "", "ÿ"])
    writer.add_custom_alignment(64)
    writer.add_tensor("t", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    summary = read_gguf(tmp_path / "x.gguf", arrays=("a.texts",))
    expected: dict[str, Any] = {"a.u8": 200, "a.i64": -5, "a.f64": 0.1, "a.bool": True, "a.short": [1, 2, 3]}
    assert expected.items() <= summary.metadata.items()
    assert summary.name == "Ünïcode"
    assert summary.metadata["a.texts"] == ["x", "", "ÿ"]
    assert summary.metadata["a.long"] == ArrayInfo("int32", 500)
    (tensor,) = summary.tensors
    assert (tensor.shape, tensor.bytes, tensor.offset % 64) == ((3, 4), 48, 0)
    content = (tmp_path / "x.gguf").read_bytes()[tensor.offset :][:48]
    assert np.frombuffer(content, np.float32).tolist() == list(range(12))


def test_a_long_vocabulary_is_skipped(model: Path) -> None:
    tokens = read_gguf(model).metadata["tokenizer.ggml.tokens"]
    assert tokens == ArrayInfo("string", 271)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"GGML" + bytes(60), "is not a GGUF file"),
        (b"GGUF", "ends too early"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "claims to hold"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62), "ends too early"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 77), "unknown type 77"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=message):
        read_gguf(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ConversionError, match="cannot be read"):
            read_gguf(path)


def test_cut_off_anywhere(model: Path, tmp_path: Path) -> None:
    content = model.read_bytes()
    end = max(tensor.offset + (tensor.bytes or 0) for tensor in read_gguf(model).tensors)
    chance = random.Random(1)
    for length in [*(chance.randrange(1, end) for _ in range(200)), end - 1]:
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(content[:length])
        with pytest.raises(ConversionError):
            read_gguf(cut)


def test_any_damage_gives_a_summary_or_an_error(model: Path, tmp_path: Path) -> None:
    content = bytearray(model.read_bytes()[:12_000] + bytes(1000))
    chance = random.Random(2)
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.choice((0, 1, 9, 127, 255))
        path = tmp_path / "damaged.gguf"
        path.write_bytes(damaged)
        try:
            read_gguf(path, arrays="all")
        except ConversionError:
            continue
