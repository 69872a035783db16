"""Parsers of tool calls and reasoning follow from what the chat template writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chat_templates import TemplateSource, load_source
from checkpoint import Checkpoint
from deploy.engines.parsers import EngineName, parser_flags
from tests.checkpoints import edit_json

MakeCheckpoint = Callable[..., Path]

HERMES = "{% if tools %}<tool_call>…</tool_call>{% endif %}"
CODER = "{% if tools %}<tool_call><function=x><parameter=y></parameter></function></tool_call>{% endif %}"


def flags(engine: EngineName, source: TemplateSource, checkpoint: Checkpoint) -> str:
    return " ".join(parser_flags(engine, source, checkpoint)[0])


@pytest.mark.parametrize(
    ("jinja", "vllm", "lmdeploy"),
    [
        (HERMES, "hermes", "qwen"),
        (CODER, "qwen3_coder", "qwen3coder"),
        ("{% if tools %}<|python_tag|>{% endif %}", "llama3_json", "llama3"),
        ("{% if tools %}[TOOL_CALLS]{% endif %}", "mistral", None),
        ("{{ messages[0].content }}", None, None),
        ("the word <tool_call></tool_call> alone", None, None),
    ],
)
def test_tool_calls(
    make_checkpoint: MakeCheckpoint, jinja: str, vllm: str | None, lmdeploy: str | None
) -> None:
    checkpoint = Checkpoint.open(make_checkpoint())
    source = replace(load_source("family:chatml", checkpoint), jinja=jinja)
    auto = f"--enable-auto-tool-choice --tool-call-parser {vllm}" if vllm else ""
    assert flags("vllm", source, checkpoint) == auto
    assert flags("lmdeploy", source, checkpoint) == (f"--tool-call-parser {lmdeploy}" if lmdeploy else "")


def test_reasoning_needs_its_marks_in_the_vocabulary(make_checkpoint: MakeCheckpoint) -> None:
    model = make_checkpoint()
    checkpoint = Checkpoint.open(model)
    source = replace(load_source("family:chatml", checkpoint), jinja="<think>{{ enable_thinking }}</think>")
    assert flags("vllm", source, checkpoint) == ""
    size = len(checkpoint.tokenizer.tokens)
    added = [
        {"id": size + i, "content": mark, "special": False, "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": False}
        for i, mark in enumerate(("<think>", "</think>"))
    ]
    edit_json(
        model / "tokenizer.json", added_tokens=[*checkpoint.tokenizer.raw.get("added_tokens", ()), *added]
    )
    checkpoint = Checkpoint.open(model)
    assert flags("vllm", source, checkpoint) == "--reasoning-parser qwen3"
    assert flags("lmdeploy", source, checkpoint) == "--reasoning-parser default"
    assert (
        flags("vllm", replace(source, jinja="<think></think>"), checkpoint)
        == "--reasoning-parser deepseek_r1"
    )
    assert parser_flags("vllm", None, checkpoint) == ((), None)
