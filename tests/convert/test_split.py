"""A GGUF file in shards: cut as gguf-split does it, the same tensors, loadable, and all or nothing."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint import Checkpoint
from cli import main
from convert import ConversionPlan, check_gguf, plan_conversion, read_gguf, run_conversion
from convert.split import read_size
from errors import OutputError, UsageError
from tests.convert.gguf_bytes import metadata, tensor_digests
from tests.convert.llamacpp_server import llamacpp

Make = Callable[..., Path]


@pytest.mark.parametrize(("text", "size"), [("500M", 500_000_000), ("2g", 2_000_000_000), (" 1G ", 10**9)])
def test_sizes_are_decimal(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "2", "0M", "2GB", "-1G", "1.5G", "9999999999G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        read_size(text)


def _plan(directory: Path, output: Path, split: int | None, *types: str) -> ConversionPlan:
    return plan_conversion(Checkpoint.open(directory), types, output, split=split)


def test_the_shards_hold_what_the_whole_file_holds(make_checkpoint: Make, tmp_path: Path) -> None:
    model = make_checkpoint()
    types = ("q8_0", "q4_k_m")
    whole = run_conversion(_plan(model, tmp_path / "whole", None, *types))
    shards = run_conversion(_plan(model, tmp_path / "shards", 300_000, *types))
    assert {file.type for file in shards} == set(types)
    for file in whole:
        parts = [part for part in shards if part.type == file.type]
        count = len(parts)
        assert count > 2
        names = [f"{file.path.stem}-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)]
        assert [part.path.name for part in parts] == names
        expected = {"split.count": count, "split.tensors.count": len(read_gguf(file.path).tensors)}
        assert metadata(parts[0].path) == {**metadata(file.path), "split.no": 0, **expected}
        for number, part in enumerate(parts[1:], 1):
            assert metadata(part.path) == {"split.no": number, **expected}
            data = sum(tensor.bytes or 0 for tensor in read_gguf(part.path).tensors)
            assert data <= 300_000 or len(read_gguf(part.path).tensors) == 1
        joined = {name: value for part in parts for name, value in tensor_digests(part.path).items()}
        assert joined == tensor_digests(file.path)
        result = check_gguf(parts[1].path)
        assert result.ok
        assert next(check for check in result.checks if check.name == "shards").ok is True


def test_what_fits_into_one_file_is_one(make_checkpoint: Make, tmp_path: Path) -> None:
    (file,) = run_conversion(_plan(make_checkpoint(), tmp_path, 10**9, "q8_0"))
    assert file.path.name == "model-Q8_0.gguf"
    assert "split.count" not in metadata(file.path)


def test_far_too_many_shards_are_refused(make_checkpoint: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="would be cut into"):
        _plan(make_checkpoint(layers=64, hidden=64, intermediate=64), tmp_path, 1, "q8_0")


def test_llamacpp_loads_the_first_shard(make_checkpoint: Make, tmp_path: Path) -> None:
    files = run_conversion(_plan(make_checkpoint(), tmp_path, 300_000, "q8_0"))
    with llamacpp(files[0].path, tmp_path / "log") as server:
        answer = server.post("/completion", {"prompt": "Hello", "n_predict": 3, "ignore_eos": True})
    assert answer["tokens_predicted"] == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a thread died")])
def test_an_interruption_leaves_no_shard(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    plan = _plan(make_checkpoint(), tmp_path / "out", 300_000, "q8_0")

    def interrupt(done: int, total: int) -> None:
        if done > total * 3 // 4:
            raise error

    with pytest.raises(type(error)):
        run_conversion(plan, progress=interrupt)
    assert list((tmp_path / "out").iterdir()) == []

    def die(*_: object) -> None:
        raise error

    monkeypatch.setattr("convert.run._Block.convert", die)  # in a thread of the pool
    with pytest.raises(type(error)):
        run_conversion(plan)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fills_at_the_end_leaves_no_shard(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """What a file system refuses late: when data is flushed, or when the third of the shards is renamed."""
    plan = _plan(make_checkpoint(), tmp_path / "out", 300_000, "q8_0")
    assert len(plan.files[0].shards) > 3
    calls = 0
    replace = Path.replace

    def third(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(path, target)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "fsync":
        monkeypatch.setattr("files.os.fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", third)
    with pytest.raises(OutputError, match="no space is left"):
        run_conversion(plan)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_lists_every_shard(
    make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_checkpoint(vocab=8000)
    arguments = [str(model), "--type", "f32", "--split-max-size", "5M", "-o", str(tmp_path / "out"), "--json"]
    for verb, listed in (("gguf", "path"), ("build", "name")):
        with pytest.raises(SystemExit) as ended:
            main([verb, *arguments])
        assert not ended.value.code
        made = json.loads(capsys.readouterr().out)
        files = [Path(entry[listed]).name for entry in made["files"]]
        shards = [name for name in files if name.endswith(".gguf")]
        assert len(shards) > 2
        assert shards == sorted(path.name for path in (tmp_path / "out").glob("*.gguf"))
        for path in (tmp_path / "out").iterdir():
            if verb == "gguf":
                path.unlink()
    assert any("Ollama takes none" in reason for reason in made["left_out"])
    assert not (tmp_path / "out" / "Modelfile").exists()
