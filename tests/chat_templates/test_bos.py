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
