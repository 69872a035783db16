"""Who writes BOS: the tokenizer adds it to every prompt or to none; the template may begin with it or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chat_templates import load_source, prove
from checkpoint import Checkpoint
from tests.checkpoints import edit_json

BOS = "<|endoftext|>"


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("begins", [True, False])
def test_a_gguf_of_ours_has_exactly_the_bos_of_training(
    make_checkpoint: Callable[..., Path], adds_bos: bool, begins: bool
) -> None:
    path = make_checkpoint()
    edit_json(path / "tokenizer_config.json", bos_token=BOS, add_bos_token=adds_bos)
    template = path / "chat_template.jinja"
    if begins:
        template.write_text("{{ bos_token }}" + template.read_text())
    checkpoint = Checkpoint.open(path)
    assert checkpoint.tokenizer.adds_bos is adds_bos

    proof = prove(load_source("checkpoint", checkpoint), checkpoint, ("jinja", "ollama"))
    assert proof.dialects["jinja"].ok
    assert proof.dialects["ollama"].ok, proof.dialects["ollama"].classes["chat"].reason


def test_a_tokenizer_that_ends_prompts_by_itself_is_found_out(make_checkpoint: Callable[..., Path]) -> None:
    """Its post-processor puts EOS behind every text, which LMDeploy feeds; the text does not show it."""
    path = make_checkpoint()
    token = {"SpecialToken": {"id": BOS, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    number = Checkpoint.open(path).tokenizer.id_of(BOS)
    special = {BOS: {"id": BOS, "ids": [number], "tokens": [BOS]}}
    ends = {
        "type": "TemplateProcessing",
        "single": [text, token],
        "pair": [text, text],
        "special_tokens": special,
    }
    edit_json(path / "tokenizer.json", post_processor=ends)
    checkpoint = Checkpoint.open(path)

    proof = prove(load_source("family:smollm2", checkpoint), checkpoint)
    lmdeploy, ollama = proof.dialects["lmdeploy"], proof.dialects["ollama"]
    assert not lmdeploy.ok
    assert lmdeploy.ids is not None
    assert lmdeploy.ids.status == "differs"
    assert f"training has nothing, the engine feeds {number} {BOS!r}" in (
        lmdeploy.classes["chat"].reason or ""
    )
    assert ollama.ok
    assert ollama.ids is not None
    assert ollama.ids.as_json() == {"status": "exact", "cases": ollama.ids.cases, "reason": None}
