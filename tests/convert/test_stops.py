"""Which ids a GGUF names so that llama.cpp stops on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from chat_templates.stops import Stops
from checkpoint import Checkpoint
from convert import plan_conversion, run_conversion
from convert.stops import llamacpp_stops_on, stop_slots
from tests.checkpoints import copy_sample, edit_json
from tests.convert.llamacpp_server import llamacpp

TOKENS = ("a", "</s>", "<|im_end|>", "<eoa>", "<|User|>", "<|bye|>", "<|end|>", "[UNUSED_1]")


@pytest.mark.parametrize(
    ("ids", "eos", "expected", "left"),
    [
        ((), None, {}, ()),
        ((), 1, {"eos": 1}, ()),
        ((3,), None, {"eos": 3}, ()),
        ((1,), 1, {"eos": 1}, ()),
        ((3, 1), 1, {"eos": 1, "eot": 3}, ()),
        ((2, 1), 1, {"eos": 1, "eot": 2}, ()),
        ((3, 1, 4), 1, {"eos": 1, "eot": 3, "eom": 4}, ()),
        ((2, 1, 6, 3), 1, {"eos": 1, "eot": 2, "eom": 3}, ()),
        ((2, 1, 3, 4), 1, {"eos": 1, "eot": 3, "eom": 4}, ()),
        ((3, 1, 4, 5), 1, {"eos": 1, "eot": 3, "eom": 4}, ("<|bye|>",)),
        ((3, 3, 99), 3, {"eos": 3}, ()),
    ],
)
def test_slots(ids: Sequence[int], eos: int | None, expected: dict[str, int], left: Sequence[str]) -> None:
    slots, findings = stop_slots(ids, eos, TOKENS)
    assert slots == expected
    assert [finding.code for finding in findings] == ["stop-ids-exceed-gguf"] * bool(left)
    assert all(text in findings[0].message for text in left)


def test_texts_that_llamacpp_takes_back() -> None:
    assert llamacpp_stops_on("<|end|>", frozenset({"<|end|>"}))
    assert not llamacpp_stops_on("<|end|>", frozenset({"<|end|>", "<|call|>", "<|return|>"}))
    assert not llamacpp_stops_on("<|end|>", frozenset({"<|end|>", "<|calls|>", "<|flush|>"}))
    assert not llamacpp_stops_on("</s>", frozenset({"</s>", "<|tool_response>"}))
    assert not llamacpp_stops_on("<eoa>", frozenset({"<eoa>"}))


@pytest.mark.engines
def test_llamacpp_stops_on_a_turn_end_it_does_not_know(sample: Path, tmp_path: Path) -> None:
    """The same weights whose turn end is called otherwise: as is it runs on, repaired it stops."""
    directory = copy_sample(sample, tmp_path / "renamed", rename={"<|im_end|>": "<eoa>"}, eos="<|endoftext|>")
    checkpoint = Checkpoint.open(directory)
    turn_end = checkpoint.tokenizer.id_of("<eoa>")
    assert turn_end is not None
    eos = checkpoint.tokenizer.eos_id or 0
    asis = _stop_reason(checkpoint, None, tmp_path)
    repaired = _stop_reason(checkpoint, Stops(ids=(turn_end, eos), turn_end=turn_end), tmp_path)
    assert (asis, repaired) == ("limit", "eos")


def _stop_reason(checkpoint: Checkpoint, stops: Stops | None, tmp_path: Path) -> str:
    plan = plan_conversion(checkpoint, ["q8_0"], tmp_path / "out", stops=stops)
    (file,) = run_conversion(plan)
    prompt = "<|im_start|>user\nWhat is 2+2? Answer with one number.<eoa>\n<|im_start|>assistant\n"
    with llamacpp(file.path, tmp_path / "log") as server:
        answer = server.post("/completion", {"prompt": prompt, "n_predict": 24, "temperature": 0})
    return str(answer["stop_type"])


def test_a_list_in_generation_config_reaches_the_file(sample: Path, tmp_path: Path) -> None:
    directory = copy_sample(sample, tmp_path / "listed")
    edit_json(directory / "generation_config.json", eos_token_id=[2, 0])
    checkpoint = Checkpoint.open(directory)
    plan = plan_conversion(checkpoint, ["q8_0"], tmp_path, stops=Stops(ids=(2, 0)))
    fields = {field.key: field.value for field in plan.files[0].fields}
    assert (fields["tokenizer.ggml.eos_token_id"], fields["tokenizer.ggml.eot_token_id"]) == (2, 0)
    stock = {field.key for field in plan_conversion(checkpoint, ["q8_0"], tmp_path).files[0].fields}
    assert "tokenizer.ggml.eot_token_id" not in stock
