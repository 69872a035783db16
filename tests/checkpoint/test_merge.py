"""A merged checkpoint: what it holds, whose files go along, where it may be written, nothing half-done."""

from __future__ import annotations

import errno
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import checkpoint.merge
from checkpoint import Checkpoint, CheckpointFlaw
from checkpoint.merge import plan_merge, run_merge
from checkpoint.safetensors import read_header
from convert import plan_conversion, run_conversion
from errors import OutputError
from tests.adapters import random_pairs, write_adapter
from tests.checkpoints import edit_json, write_safetensors

Make = Callable[..., Path]


@pytest.fixture
def base(make_checkpoint: Make) -> Path:
    return make_checkpoint("base")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", random_pairs())


def _merge(base: Path, adapter: Path, target: Path, **options: Any) -> Path:
    run_merge(plan_merge(base, adapter, target, **options))
    return target


def test_the_files_are_those_that_the_reader_merges(base: Path, adapter: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    plan = plan_merge(base, adapter, tmp_path / "merged", shard_bytes=300_000)
    files = run_merge(plan, progress=lambda done, total: seen.append((done, total)))
    assert len(files) > 2
    assert seen == sorted(seen)
    assert seen[-1] == (plan.bytes, plan.bytes)
    for file in files:
        content = file.path.read_bytes()
        assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert read_header(file.path).metadata == {"format": "pt"}
    merged = Checkpoint.open(tmp_path / "merged").weights
    read = Checkpoint.open(base).with_adapter(adapter).weights
    assert set(merged.names) == set(read.names)
    for name in merged.names:
        rows = read.rows(name)
        whole = rows.read(0, int(np.prod(rows.shape[:-1], dtype=int)))
        assert np.array_equal(merged.raw(name).reshape(whole.shape), whole)
    assert (tmp_path / "merged" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert (tmp_path / "merged" / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_a_gguf_of_both_is_that_of_the_merged(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", random_pairs())
    _bring_tokenizer(base, adapter)
    merged = Checkpoint.open(_merge(base, adapter, tmp_path / "merged" / "base"))
    at_once = Checkpoint.open(base).with_adapter(adapter)
    (one,), (other,) = (
        run_conversion(plan_conversion(model, ["q8_0"], tmp_path / name))
        for name, model in (("one", at_once), ("other", merged))
    )
    assert one.sha256 == other.sha256


def _bring_tokenizer(base: Path, adapter: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (adapter / name).write_bytes((base / name).read_bytes())
    edit_json(adapter / "tokenizer_config.json", chat_template="{{ 'of the adapter' }}")
    (base / "chat_template.jinja").write_text("{{ 'of the base' }}")
    (base / "special_tokens_map.json").write_text('{"eos_token": "<|endoftext|>"}')


def test_a_tokenizer_that_was_saved_with_the_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    _bring_tokenizer(base, adapter)
    plan = plan_merge(base, adapter, tmp_path / "merged")
    assert (plan.tokenizer, plan.template) == ("adapter", "adapter")
    run_merge(plan)
    merged = Checkpoint.open(tmp_path / "merged")
    assert merged.chat_template == "{{ 'of the adapter' }}"
    assert not (tmp_path / "merged" / "special_tokens_map.json").exists()
    assert Checkpoint.open(base).with_adapter(adapter).chat_template == merged.chat_template


def test_a_tokenizer_without_a_template_keeps_the_bases(base: Path, adapter: Path, tmp_path: Path) -> None:
    _bring_tokenizer(base, adapter)
    edit_json(adapter / "tokenizer_config.json", chat_template=None)
    (base / "chat_template.jinja").unlink()
    edit_json(base / "tokenizer_config.json", chat_template="{{ 'of the base' }}")
    plan = plan_merge(base, adapter, tmp_path / "merged")
    assert (plan.tokenizer, plan.template) == ("adapter", "base")
    run_merge(plan)
    assert Checkpoint.open(tmp_path / "merged").chat_template == "{{ 'of the base' }}"


def test_only_a_template_beside_the_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    (adapter / "chat_template.jinja").write_bytes(b"{{ 'mine' }}\r\n")
    plan = plan_merge(base, adapter, tmp_path / "merged")
    assert (plan.tokenizer, plan.template) == ("base", "adapter")
    run_merge(plan)
    assert (tmp_path / "merged" / "chat_template.jinja").read_bytes() == b"{{ 'mine' }}\r\n"


def test_a_head_that_was_trained_is_tied_no_longer(make_checkpoint: Make, tmp_path: Path) -> None:
    base = make_checkpoint("base", tied=True)
    head = np.full((271, 256), 0x3F80, np.uint16)
    adapter = write_adapter(tmp_path / "adapter", {}, whole={"lm_head.weight": ("BF16", head)})
    merged = Checkpoint.open(_merge(base, adapter, tmp_path / "merged"))
    assert merged.config.tie_word_embeddings is False
    assert np.array_equal(merged.weights.raw("lm_head.weight"), head)
    same = Checkpoint.open(base).weights.raw("model.embed_tokens.weight").copy()
    adapter = write_adapter(tmp_path / "adapter", {}, whole={"lm_head.weight": ("BF16", same)})
    merged = Checkpoint.open(_merge(base, adapter, tmp_path / "still tied"))
    assert merged.config.tie_word_embeddings is True
    assert "lm_head.weight" not in merged.weights


def test_a_vocabulary_that_grew(make_checkpoint: Make, tmp_path: Path) -> None:
    base = make_checkpoint("base", tied=True)
    grown = np.zeros((288, 256), np.uint16)
    adapter = write_adapter(tmp_path / "a", {}, whole={"model.embed_tokens.weight": ("BF16", grown)})
    merged = Checkpoint.open(_merge(base, adapter, tmp_path / "merged"))
    assert merged.config.vocab_size == 288
    assert merged.weights.info("model.embed_tokens.weight").shape == (288, 256)


def test_where_it_may_not_be_written(base: Path, adapter: Path, tmp_path: Path) -> None:
    for place in (base, adapter, base / "merged", tmp_path):
        with pytest.raises(OutputError, match="nothing is ever written there"):
            plan_merge(base, adapter, place, overwrite=True)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        plan_merge(base, adapter, taken)
    with pytest.raises(OutputError, match="no checkpoint"):
        plan_merge(base, adapter, taken, overwrite=True)
    merged = _merge(base, adapter, tmp_path / "merged")
    with pytest.raises(OutputError, match="exists already"):
        plan_merge(base, adapter, merged)
    (merged / "old").write_text("of last week")
    _merge(base, adapter, merged, overwrite=True)
    assert not (merged / "old").exists()


def test_weights_that_overflow_are_refused(make_checkpoint: Make, tmp_path: Path) -> None:
    base = make_checkpoint("base", dtype="F16")
    pairs = {name: (a * 1e4, b * 1e4) for name, (a, b) in random_pairs().items()}
    adapter = write_adapter(tmp_path / "adapter", pairs)
    with pytest.raises(CheckpointFlaw, match="do not fit into F16"):
        _merge(base, adapter, tmp_path / "out" / "merged")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_quantized_base_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    edit_json(base / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(CheckpointFlaw, match="quantized weights \\(gptq\\)"):
        plan_merge(base, adapter, tmp_path / "merged")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bug")])
def test_an_interruption_leaves_nothing(
    base: Path, adapter: Path, tmp_path: Path, error: BaseException
) -> None:
    plan = plan_merge(base, adapter, tmp_path / "out" / "merged", shard_bytes=300_000)

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise error

    with pytest.raises(type(error)):
        run_merge(plan, progress=interrupt)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_leaves_what_was_there(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = _merge(base, adapter, tmp_path / "out" / "merged")
    before = sorted((path.name, path.read_bytes()) for path in merged.iterdir())
    plan = plan_merge(base, adapter, merged, overwrite=True)
    monkeypatch.setattr("checkpoint.merge.shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(OutputError, match="only 1,000 bytes left"):
        run_merge(plan)
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("checkpoint.merge.os.fsync", full)
    with pytest.raises(OutputError, match="no space is left"):
        run_merge(plan)
    assert sorted((path.name, path.read_bytes()) for path in merged.iterdir()) == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["merged"]


def test_a_signal_leaves_nothing(base: Path, adapter: Path, tmp_path: Path) -> None:
    """A real SIGINT in the middle of the work, in a process of its own."""
    target = tmp_path / "out" / "merged"
    script = (
        "import sys, time; from pathlib import Path\n"
        "from checkpoint.merge import plan_merge, run_merge\n"
        "plan = plan_merge(*map(Path, sys.argv[1:]))\n"
        "def slowly(done, total):\n"
        "    print(done, flush=True)\n"
        "    time.sleep(30)\n"
        "try: run_merge(plan, progress=slowly)\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    command = [sys.executable, "-c", script, str(base), str(adapter), str(target)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    process.stdout.readline()
    assert [path.suffix for path in target.parent.iterdir()] == [".part"]
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0].split()[-1] == "interrupted"
    assert list(target.parent.iterdir()) == []


@pytest.mark.engines  # needs none, but takes its time
def test_memory_stays_flat(make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """17 MB in one tensor that is merged: what Python and numpy allocate is a part of it."""
    import tracemalloc

    base = make_checkpoint("base", hidden=512, layers=1, vocab=1 << 14, intermediate=512, tied=True)
    pairs = random_pairs(modules={"lm_head": (1 << 14, 512)})
    plan = plan_merge(base, write_adapter(tmp_path / "adapter", pairs), tmp_path / "merged")
    monkeypatch.setattr(checkpoint.merge, "_BLOCK", 1 << 16)
    tracemalloc.start()
    try:
        run_merge(plan)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5e6


def test_a_plan_is_json(base: Path, adapter: Path, tmp_path: Path) -> None:
    shown = json.loads(json.dumps(plan_merge(base, adapter, tmp_path / "merged").as_json()))
    assert shown["merged"] == [f"{name}.weight" for name in random_pairs()]
    assert (shown["tokenizer"], shown["template"]) == ("base", "base")
    assert not (tmp_path / "merged").exists()


def test_tensors_of_any_kind_are_copied(base: Path, adapter: Path, tmp_path: Path) -> None:
    weights = Checkpoint.open(base).weights
    tensors = {info.name: (info.dtype, weights.raw(info.name).copy()) for info in weights}
    tensors["a.scalar"] = ("F32", np.array(3.5, np.float32))
    tensors["an.empty"] = ("BF16", np.empty((0, 4), np.uint16))
    tensors["a.count"] = ("I64", np.arange(6).reshape(1, 2, 3))
    write_safetensors(base / "model.safetensors", tensors)
    merged = Checkpoint.open(_merge(base, adapter, tmp_path / "merged")).weights
    for name in ("a.scalar", "an.empty", "a.count"):
        assert np.array_equal(merged.raw(name), tensors[name][1])
