"""The served view shows the corrected files, links the rest and touches nothing of the original."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from chat_templates import analyse_stops, load_source, write_served_view
from checkpoint import Checkpoint
from errors import OutputError

MakeCheckpoint = Callable[..., Path]


def write(path: Path, view: Path, spec: str = "checkpoint") -> Path:
    checkpoint = Checkpoint.open(path)
    source = load_source(spec, checkpoint)
    return write_served_view(checkpoint, source, analyse_stops(source, checkpoint), view)


def snapshot(path: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in path.iterdir()}


def test_the_view_is_a_checkpoint_with_the_named_template(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    path = make_checkpoint()
    before = snapshot(path)
    view = write(path, tmp_path / "view", "family:smollm2")
    shown = Checkpoint.open(view)
    assert shown.chat_template == load_source("family:smollm2", None).jinja
    assert shown.chat_templates.tokenizer_config is None
    assert shown.weights.names == Checkpoint.open(path).weights.names
    assert (view / "config.json").is_symlink()
    assert (view / "config.json").readlink().is_absolute()
    assert snapshot(path) == before


def test_the_stop_ids_are_put_right(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path = make_checkpoint()
    tokenizer = Checkpoint.open(path).tokenizer
    wrong, right = tokenizer.id_of("<|endoftext|>"), tokenizer.id_of("<|im_end|>")
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|endoftext|>"}))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": wrong, "top_p": 0.8}))
    view = write(path, tmp_path / "view")
    assert json.loads((view / "generation_config.json").read_text()) == {
        "eos_token_id": [right, wrong],
        "top_p": 0.8,
    }


def test_a_missing_generation_config_is_made(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path = make_checkpoint()
    (path / "generation_config.json").unlink(missing_ok=True)
    made = json.loads((write(path, tmp_path / "view") / "generation_config.json").read_text())
    assert made["eos_token_id"] == Checkpoint.open(path).tokenizer.id_of("<|im_end|>")


def test_other_homes_of_a_template_are_left_out(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path = make_checkpoint()
    (path / "chat_template.json").write_text("{}")
    (path / ".cache").mkdir()
    view = write(path, tmp_path / "view")
    assert not {"chat_template.json", ".cache"} & {entry.name for entry in view.iterdir()}


def test_writing_twice_gives_the_same(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path = make_checkpoint()
    first = {p.name: p.read_bytes() for p in write(path, tmp_path / "view").iterdir()}
    (path / "new.txt").write_text("new")
    second = {p.name: p.read_bytes() for p in write(path, tmp_path / "view").iterdir()}
    assert second == {**first, "new.txt": b"new"}


@pytest.mark.parametrize("inside", ["", "view"])
def test_never_into_the_checkpoint(make_checkpoint: MakeCheckpoint, inside: str) -> None:
    path = make_checkpoint()
    before = snapshot(path)
    with pytest.raises(OutputError, match="cannot be written into"):
        write(path, path / inside)
    assert snapshot(path) == before


def test_a_directory_of_somebody_else_is_not_replaced(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="did not write"):
        write(make_checkpoint(), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_a_relative_checkpoint_gives_absolute_links(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_checkpoint()
    monkeypatch.chdir(path.parent)
    view = write(Path(path.name), tmp_path / "deep" / "view")
    assert (view / "config.json").exists()


@pytest.mark.filterwarnings("ignore")
def test_transformers_reads_the_view(sample: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    view = write(sample, tmp_path / "view", "family:chatml")
    tokenizer = AutoTokenizer.from_pretrained(str(view))
    messages = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
