"""Importance matrices: read from either file, used for the right columns and experts, refused when wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import convert.run
from checkpoint import Checkpoint
from cli import main
from convert import Importance, TypeChoices, plan_conversion, read_gguf, read_importance, run_conversion
from convert.choices import read_overrides
from errors import ConversionError
from tests.convert.imatrix_files import random_sums, write_imatrix_dat, write_imatrix_gguf
from tests.native_families import write_native

Make = Callable[..., Path]


def test_means_of_a_gguf(make_checkpoint: Make, tmp_path: Path) -> None:
    sums = random_sums(plan_conversion(Checkpoint.open(make_checkpoint()), ("q4_k_m",)))
    read = read_importance(write_imatrix_gguf(tmp_path / "i.gguf", sums))
    assert read.weights.keys() == sums.keys()
    for name, (values, counts) in sums.items():
        assert np.array_equal(read.weights[name], (values / counts[:, None]).reshape(-1))
    assert {field.key: field.value for field in read.fields()} == {
        "quantize.imatrix.file": str(tmp_path / "i.gguf")[:127],
        "quantize.imatrix.dataset": "wiki.train.raw",
        "quantize.imatrix.entries_count": len(sums),
        "quantize.imatrix.chunks_count": 12,
    }


def test_an_expert_that_was_never_used_weighs_all_columns_alike(tmp_path: Path) -> None:
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    path = write_imatrix_gguf(tmp_path / "i.gguf", {"x": (values, np.array([2, 0], np.float32))})
    assert read_importance(path).weights["x"].tolist() == [0, 0.5, 1, 1.5, 1, 1, 1, 1]


@pytest.mark.parametrize(("calls", "divisor"), [(3, 3), (0, 1)])
@pytest.mark.parametrize("tail", [True, False])
def test_the_older_file(calls: int, divisor: int, tail: bool, tmp_path: Path) -> None:
    values = np.array([[1, 2, 7, 11]], np.float32)
    sums = {"blk.0.attn_q.weight": (values, np.ones(1, np.float32))}
    read = read_importance(write_imatrix_dat(tmp_path / "i.dat", sums, calls=calls, tail=tail))
    assert np.array_equal(read.weights["blk.0.attn_q.weight"], values[0] / np.float32(divisor))
    assert (read.datasets, read.chunks) == ((("wiki.raw",), 12) if tail else ((), 0))


def test_a_damaged_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    values = np.ones((1, 4), np.float32)
    whole = write_imatrix_dat(tmp_path / "i.dat", {"x": (values, values[0])}, tail=False).read_bytes()
    for end in range(len(whole)):
        (tmp_path / "cut.dat").write_bytes(whole[:end])
        with pytest.raises(ConversionError):
            read_importance(tmp_path / "cut.dat")
    for broken in (struct.pack("<i", 0), struct.pack("<ii", 1, -5), whole[:-4] + struct.pack("<f", np.nan)):
        (tmp_path / "bad.dat").write_bytes(broken)
        with pytest.raises(ConversionError):
            read_importance(tmp_path / "bad.dat")
    with pytest.raises(ConversionError, match="Cannot read"):
        read_importance(tmp_path / "none.dat")


def test_a_gguf_that_is_a_model_is_refused(make_checkpoint: Make, tmp_path: Path) -> None:
    (file,) = run_conversion(plan_conversion(Checkpoint.open(make_checkpoint()), ("q8_0",), tmp_path))
    with pytest.raises(ConversionError, match=r"imatrix\.datasets"):
        read_importance(file.path)


def test_the_number_of_values_must_be_the_tensors(make_checkpoint: Make) -> None:
    checkpoint = Checkpoint.open(make_checkpoint())
    wrong = np.ones(7, np.float32)
    with pytest.raises(ConversionError, match=r"7 values for blk\.0\.attn_q\.weight, which needs 256"):
        plan_conversion(
            checkpoint, ("q4_0",), importance=Importance(Path("i.dat"), {"blk.0.attn_q.weight": wrong})
        )
    # llama.cpp lets the embedding pass, and files that are not quantized need no weights.
    plan_conversion(checkpoint, ("q4_0",), importance=Importance(Path("i"), {"token_embd.weight": wrong}))
    plan_conversion(checkpoint, ("bf16",), importance=Importance(Path("i"), {"blk.0.attn_q.weight": wrong}))


@pytest.mark.parametrize("kernels", [pytest.param("ggml", marks=pytest.mark.engines), "auto"])
def test_small_blocks_change_nothing_not_even_between_experts(
    kernels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint.open(write_native(tmp_path / "model", "Qwen2MoeForCausalLM"))
    sums = random_sums(plan_conversion(checkpoint, ("q4_k_m",)))
    importance = read_importance(write_imatrix_gguf(tmp_path / "i.gguf", sums))
    made = []
    for size in (1 << 18, 100_000, 700):
        monkeypatch.setattr(convert.run, "_BLOCK", size)
        plan = plan_conversion(checkpoint, ("q4_k_m", "q2_k"), tmp_path / str(size), importance=importance)
        made.append([file.sha256 for file in run_conversion(plan, kernels=kernels)])
    assert made[0] == made[1] == made[2]
    plain = run_conversion(plan_conversion(checkpoint, ("q4_k_m",), tmp_path / "plain"))
    assert plain[0].sha256 != made[0][0]


def test_the_command_shows_and_writes_what_was_chosen(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint(layers=8)
    sums = random_sums(plan_conversion(Checkpoint.open(directory), ("q4_0",)))
    imatrix = write_imatrix_dat(tmp_path / "i.dat", sums)
    options = [
        "--type",
        "q4_0",
        "--imatrix",
        str(imatrix),
        "--tensor-type",
        "attn_v=q6_k",
        "-o",
        str(tmp_path),
    ]
    command = ["gguf", str(directory), *options]
    shown = CliRunner().invoke(main, [*command, "--dry-run", "--json"])
    assert shown.exit_code == 0, shown.output
    plan = json.loads(shown.stdout)
    assert (plan["imatrix"], plan["tensor_types"], plan["pure"]) == (
        str(imatrix),
        [["attn_v", "q6_k"]],
        False,
    )
    planned = {tensor["name"]: tensor["type"] for tensor in plan["files"][0]["tensors"]}
    assert planned["blk.3.attn_v.weight"] == "q6_k"
    assert [planned[f"blk.{layer}.ffn_down.weight"] for layer in (0, 1)] == ["q4_1", "q4_0"]
    done = CliRunner().invoke(main, [*command, "--json"])
    assert done.exit_code == 0, done.output
    summary = read_gguf(Path(json.loads(done.stdout)["files"][0]["path"]))
    assert {tensor.name: tensor.type.lower() for tensor in summary.tensors} == planned
    assert summary.metadata["quantize.imatrix.entries_count"] == len(sums)


def test_the_command_refuses_a_pattern_without_a_type(make_checkpoint: Make) -> None:
    refused = CliRunner().invoke(main, ["gguf", str(make_checkpoint()), "--tensor-type", "attn_v"])
    assert refused.exit_code == 2


def test_a_plan_warns_of_patterns_that_do_nothing(make_checkpoint: Make) -> None:
    choices = TypeChoices(read_overrides(["attn_w=q8_0"]))
    plan = plan_conversion(Checkpoint.open(make_checkpoint()), ("q4_0",), choices=choices)
    assert [finding.code for finding in plan.findings if finding.code.startswith("tensor-type")] == [
        "tensor-type-unused"
    ]
