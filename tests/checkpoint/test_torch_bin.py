"""Torch files give the same tensors as safetensors, and hostile ones give nothing but an error."""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoint import Checkpoint, CheckpointFlaw, survey
from checkpoint.torch_bin import read_torch_header
from checkpoint.torch_pickle import Forbidden, read_state_dict
from convert import plan_conversion, run_conversion
from tests.checkpoint.torch_files import (
    as_torch_files,
    evil_pickle,
    state_dict_pickle,
    tensor_program,
    write_archive,
    write_torch,
)

Make = Callable[..., Path]


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_the_same_tensors_as_safetensors(make_checkpoint: Make, shards: int, dtype: str) -> None:
    directory = make_checkpoint(dtype=dtype)
    before = Checkpoint.open(directory).weights
    expected = {info.name: (info.dtype, before.raw(info.name).copy()) for info in before}
    as_torch_files(directory, shards)
    weights = Checkpoint.open(directory).weights
    assert weights.pickled
    assert set(weights.names) == set(expected)
    for name, (stored, array) in expected.items():
        assert weights.info(name).dtype == stored
        assert np.array_equal(weights.raw(name), array)
    assert "torch-bin-weights" in {finding.code for finding in survey(directory).findings}


def test_a_conversion_is_the_same(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint()
    digests = []
    for kind in ("safetensors", "torch"):
        plan = plan_conversion(Checkpoint.open(directory), ["q8_0"], tmp_path / kind)
        digests.append([file.sha256 for file in run_conversion(plan)])
        if kind == "safetensors":
            as_torch_files(directory)
    assert digests[0] == digests[1]


def test_safetensors_win(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    (directory / "pytorch_model.bin").write_bytes(b"whatever")
    assert not Checkpoint.open(directory).weights.pickled


def test_tensors_may_share_a_storage(tmp_path: Path) -> None:
    programs = {
        "whole": tensor_program("F32", "0", 6, (2, 3)),
        "tied": tensor_program("F32", "0", 6, (2, 3)),
        "row": tensor_program("F32", "0", 6, (3,), offset=3),
        "one": tensor_program("F32", "0", 6, (1, 3, 1), strides=(77, 1, 9)),
        "none": tensor_program("F32", "0", 6, (0, 3)),
    }
    data = np.arange(6, dtype=np.float32).tobytes()
    write_archive(tmp_path / "x.bin", {"data.pkl": state_dict_pickle(programs), "data/0": data})
    tensors = read_torch_header(tmp_path / "x.bin").tensors
    assert tensors["whole"].start == tensors["tied"].start == tensors["row"].start - 12
    assert tensors["one"].nbytes == 12
    assert tensors["none"].elements == 0


HOSTILE = {
    "runs a program": evil_pickle(),
    "runs a program, protocol 0": evil_pickle(0),
    "runs a program, protocol 4": evil_pickle(4),
    "evaluates": b"\x80\x02cbuiltins\neval\n(X\x04\x00\x00\x001234tR.",
    "imports a function of torch": b"\x80\x02ctorch\nload\n.",
    "instance": b"\x80\x02(ios\nsystem\n.",
    "extension": b"\x80\x02\x82\x01.",
    "a state of its own": b"\x80\x02}}X\x01\x00\x00\x00a}sb.",
    "calls a storage": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "no dict": b"\x80\x02].",
    "an empty dict": b"\x80\x02}.",
    "nothing": b"",
    "no stop": b"\x80\x02}",
    "pops too much": b"\x80\x020.",
    "a memo that is not there": b"\x80\x02h\x07.",
    "marks": b"\x80\x02" + b"(" * 1000 + b".",
    "a text of 4 GB": b"\x80\x02X\xff\xff\xff\xffab.",
    "a dict that holds itself as key": b"\x80\x02}q\x00h\x00h\x00s.",
    "deeply nested": b"\x80\x02}X\x01\x00\x00\x00a" + b"N" + b"\x85" * 200_000 + b"s.",
    "a negative size": state_dict_pickle({"w": tensor_program("F32", "0", 6, (-2, 3))}),
    "a huge rank": state_dict_pickle({"w": tensor_program("F32", "0", 6, (1,) * 65)}),
    "a path for a storage": state_dict_pickle({"w": tensor_program("F32", "../../x", 6, (6,))}),
    "a name with a line break": state_dict_pickle({"a\nb": tensor_program("F32", "0", 6, (6,))}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_are_refused(tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    write_archive(tmp_path / "x.bin", {"data.pkl": HOSTILE[case], "data/0": bytes(24)})
    with pytest.raises(CheckpointFlaw) as caught:
        read_torch_header(tmp_path / "x.bin")
    assert caught.value.code == "pickle-refused"
    assert "broken out" not in "".join(capfd.readouterr())


def test_the_forbidden_name_is_told() -> None:
    with pytest.raises(Forbidden, match=r"asks for '(posix|nt)\.system'"):
        read_state_dict(evil_pickle())


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (tensor_program("F32", "0", 6, (7,)), "reaches behind its storage"),
        (tensor_program("F32", "0", 6, (6,), offset=1), "reaches behind its storage"),
        (tensor_program("F32", "0", 7, (6,)), "reaches behind its storage"),
        (tensor_program("F32", "0", 6, (1 << 61, 1 << 61)), "reaches behind its storage"),
        (tensor_program("F32", "1", 6, (6,)), "which is not there"),
        (tensor_program("F32", "0", 6, (2, 3), strides=(1, 2)), "view with gaps"),
    ],
)
def test_tensors_lie_in_their_storage(tmp_path: Path, program: bytes, message: str) -> None:
    write_archive(tmp_path / "x.bin", {"data.pkl": state_dict_pickle({"w": program}), "data/0": bytes(24)})
    with pytest.raises(CheckpointFlaw, match=message):
        read_torch_header(tmp_path / "x.bin")


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    good = {"data.pkl": state_dict_pickle({"w": tensor_program("F32", "0", 6, (6,))}), "data/0": bytes(24)}

    def code() -> str:
        with pytest.raises(CheckpointFlaw) as caught:
            read_torch_header(path)
        return caught.value.code

    assert code() == "shard-missing"
    path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    assert code() == "torch-legacy"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert code() == "git-lfs-pointer"
    path.write_bytes(b"x" * 100)
    assert code() == "shard-damaged"
    write_archive(path, {**good, "byteorder": b"big"})
    assert code() == "torch-big-endian"
    write_archive(path, good, compression=zipfile.ZIP_DEFLATED)
    assert code() == "shard-damaged"
    write_archive(path, {"data/0": bytes(24)})
    assert code() == "shard-damaged"
    write_archive(path, good)
    path.write_bytes(path.read_bytes()[:-40])
    assert code() == "shard-damaged"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("torch") / "x.bin"
    write_torch(path, {"a": ("F32", np.ones((2, 3), np.float32)), "b": ("BF16", np.ones(5, np.uint16))})
    return path.read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_damaged_is_our_error(archive: bytes, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(archive)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    try:
        tensors = read_torch_header(path).tensors
    except CheckpointFlaw:
        return
    assert all(info.end <= len(content) for info in tensors.values() if info.elements)


@settings(max_examples=300, deadline=None)
@given(program=st.binary(max_size=80) | st.binary(max_size=60).map(lambda rest: b"\x80\x02}(" + rest))
def test_whatever_the_program_it_ends(program: bytes) -> None:
    with pytest.raises(Forbidden):
        read_state_dict(program)


@pytest.mark.engines
def test_files_of_torch_itself(make_checkpoint: Make, tmp_path: Path) -> None:
    """A plain dict, a module's state dict with parameters, and tensors of several dtypes."""
    python = os.environ.get("PORTSIDE_TEST_TORCH_PYTHON")
    if not python:
        pytest.skip("PORTSIDE_TEST_TORCH_PYTHON is not set (make test-engines sets it)")
    script = """
import sys, torch
layer = torch.nn.Linear(8, 4)
torch.save(layer.state_dict(), sys.argv[1] + "/module.bin")
torch.save({name: value for name, value in layer.named_parameters()}, sys.argv[1] + "/parameters.bin")
kinds = ("float32", "float16", "bfloat16", "float64", "int64", "uint8", "bool", "float8_e4m3fn", "uint16")
many = {kind: torch.arange(12).reshape(3, 4).to(getattr(torch, kind)) for kind in kinds}
torch.save(many | {"part": many["float32"][1:], "epoch": 3}, sys.argv[1] + "/many.bin")
torch.save(many["float32"].t(), sys.argv[1] + "/tensor.bin")
torch.save({"turned": many["float32"].t()}, sys.argv[1] + "/turned.bin")
torch.save({"model": layer}, sys.argv[1] + "/whole.bin")
"""
    subprocess.run([python, "-c", script, tmp_path], check=True)
    for name in ("module", "parameters"):
        tensors = read_torch_header(tmp_path / f"{name}.bin").tensors
        assert {key: info.shape for key, info in tensors.items()} == {"weight": (4, 8), "bias": (4,)}
    many = read_torch_header(tmp_path / "many.bin").tensors
    assert len(many) == 10
    assert many["float8_e4m3fn"].dtype == "F8_E4M3"
    data = (tmp_path / "many.bin").read_bytes()
    part = np.frombuffer(data, np.float32, 8, many["part"].start)
    assert part.tolist() == list(range(4, 12))
    for name, words in (("tensor", "no dict"), ("turned", "view with gaps"), ("whole", "asks for")):
        with pytest.raises(CheckpointFlaw, match=words):
            read_torch_header(tmp_path / f"{name}.bin")
