"""Stop ids: the template's turn end first, found in the tokenizer; what is missing is a finding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from chat_templates import Stops, analyse_stops, load_source
from checkpoint import Checkpoint
from tests.checkpoints import CHATML

MakeCheckpoint = Callable[..., Path]


def stops_of(path: Path, spec: str = "checkpoint") -> Stops:
    checkpoint = Checkpoint.open(path)
    return analyse_stops(load_source(spec, checkpoint), checkpoint)


def edit(path: Path, **values: object) -> None:
    data = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({k: v for k, v in {**data, **values}.items() if v is not None}))


def ids(path: Path) -> dict[str, int]:
    checkpoint = Checkpoint.open(path)
    return {token.content: token.id for token in checkpoint.tokenizer.added}


def test_the_sample_stops_on_im_end(sample: Path) -> None:
    stops = stops_of(sample)
    assert (stops.strings[0], stops.ids, stops.turn_end) == ("<|im_end|>", (2,), 2)
    assert not stops.findings


def test_a_turn_end_that_nothing_names_is_a_finding(make_checkpoint: MakeCheckpoint) -> None:
    path = make_checkpoint()
    end, text = ids(path)["<|im_end|>"], ids(path)["<|endoftext|>"]
    edit(path / "generation_config.json", eos_token_id=text)
    edit(path / "tokenizer_config.json", eos_token="<|endoftext|>")
    stops = stops_of(path)
    assert stops.ids == (end, text)
    assert stops.turn_end == end
    assert [finding.code for finding in stops.findings] == ["template-stop-not-in-generation-config"]
    assert "generation_config.json" in stops.findings[0].message


def test_all_named_ids_come_along_in_order(make_checkpoint: MakeCheckpoint) -> None:
    path = make_checkpoint()
    end, text = ids(path)["<|im_end|>"], ids(path)["<|endoftext|>"]
    edit(path / "generation_config.json", eos_token_id=[text, end, 10**6])
    assert stops_of(path).ids == (end, text)
    assert not stops_of(path).findings


def test_without_a_generation_config_the_config_counts(make_checkpoint: MakeCheckpoint) -> None:
    path = make_checkpoint()
    (path / "generation_config.json").unlink(missing_ok=True)
    edit(path / "tokenizer_config.json", eos_token="<|endoftext|>")
    assert not stops_of(path).findings
    edit(path / "config.json", eos_token_id=ids(path)["<|endoftext|>"])
    assert "neither config.json" in stops_of(path).findings[0].message


def test_a_turn_end_of_several_tokens_is_a_finding(make_checkpoint: MakeCheckpoint) -> None:
    stops = stops_of(make_checkpoint(), "family:llama3")
    assert stops.multi_token == ("<|eot_id|>",)
    assert stops.turn_end is None
    assert [finding.code for finding in stops.findings] == ["template-stop-multi-token"]


@pytest.mark.parametrize("spec", ["family:alpaca", "family:vicuna"])
def test_plain_text_templates_end_with_eos(make_checkpoint: MakeCheckpoint, spec: str) -> None:
    path = make_checkpoint()
    assert stops_of(path, spec).turn_end == Checkpoint.open(path).tokenizer.eos_id


def test_an_answer_that_nothing_follows_ends_with_eos(make_checkpoint: MakeCheckpoint) -> None:
    path = make_checkpoint(chat_template="{% for m in messages %}{{ m.content }}\n{% endfor %}")
    assert stops_of(path).turn_end == Checkpoint.open(path).tokenizer.eos_id


def test_a_template_without_a_form_is_rendered_to_find_its_end(make_checkpoint: MakeCheckpoint) -> None:
    path = make_checkpoint(chat_template="{{ messages | length }}" + CHATML)
    assert load_source("checkpoint", Checkpoint.open(path)).form is None
    assert stops_of(path).strings[0] == "<|im_end|>"
