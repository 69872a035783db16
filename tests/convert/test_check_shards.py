"""`check_gguf` on shards, as the gguf package splits a file: whole, one missing, one in another's place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from checkpoint import Checkpoint
from convert import check_gguf, plan_conversion, read_gguf, run_conversion
from tests.convert.gguf_bytes import tensor_bytes

Make = Callable[..., Path]


@pytest.fixture
def shards(make_checkpoint: Make, tmp_path: Path) -> list[Path]:
    """A f32 file of ours in several shards: only the first has metadata of its own."""
    (file,) = run_conversion(plan_conversion(Checkpoint.open(make_checkpoint()), ("f32",), tmp_path))
    summary = read_gguf(file.path, arrays="all")
    largest = max(tensor.bytes or 0 for tensor in summary.tensors)
    writer = gguf.GGUFWriter(tmp_path / "split.gguf", "llama", split_max_size=2 * largest)
    for key in ("llama.block_count", "general.file_type"):
        writer.add_uint32(key, summary.metadata[key])
    writer.add_token_list(summary.metadata["tokenizer.ggml.tokens"])
    for tensor in summary.tensors:
        values = np.frombuffer(tensor_bytes(file.path, tensor), np.float32)
        writer.add_tensor(tensor.name, values.reshape(tensor.shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    paths = sorted(tmp_path.glob("split-*-of-*.gguf"))
    assert len(paths) > 2
    return paths


def _problems(path: Path) -> list[str]:
    return [problem for check in check_gguf(path).checks for problem in check.problems]


def test_whole_shards_are_sound_whichever_is_named(shards: list[Path]) -> None:
    for path in shards:
        result = check_gguf(path)
        assert result.ok, _problems(path)
        assert next(check for check in result.checks if check.name == "shards").ok is True


def test_a_missing_shard_is_named(shards: list[Path]) -> None:
    shards[1].unlink()
    assert not check_gguf(shards[0]).ok
    assert f"{shards[1].name} is missing." in _problems(shards[0])


def test_shards_in_each_others_place_are_told(shards: list[Path]) -> None:
    spare = shards[0].with_name("spare")
    shards[1].rename(spare)
    shards[2].rename(shards[1])
    spare.rename(shards[2])
    assert not check_gguf(shards[0]).ok
    said = " ".join(_problems(shards[0]))
    assert f"{shards[1].name} says it is number 2" in said
    assert f"{shards[2].name} says it is number 1" in said


def test_a_shard_that_is_cut_off_fails(shards: list[Path]) -> None:
    last = shards[-1]
    last.write_bytes(last.read_bytes()[:-64])
    assert not check_gguf(shards[0]).ok
