"""How an engine takes tool calls and reasoning out of a model's text, known by what its chat template writes.

The markers decide, not the model's name: a fine-tune keeps its template's markup whatever it is called. Names
of parsers are those of vLLM 0.32 and LMDeploy 0.18. Does not know plans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from chat_templates import TemplateSource
    from checkpoint import Checkpoint

__all__ = ["parser_flags"]

EngineName = Literal["vllm", "lmdeploy"]

_TOOLS: tuple[tuple[tuple[str, ...], dict[EngineName, str]], ...] = (
    (("<tool_call>", "<function=", "<parameter="), {"vllm": "qwen3_coder", "lmdeploy": "qwen3coder"}),
    (("<tool_call>", "</tool_call>"), {"vllm": "hermes", "lmdeploy": "qwen"}),
    (("<|python_tag|>",), {"vllm": "llama3_json", "lmdeploy": "llama3"}),
    (("[TOOL_CALLS]",), {"vllm": "mistral"}),
    (("<|action_start|>", "<|plugin|>"), {"vllm": "internlm", "lmdeploy": "internlm"}),
    (("<｜tool▁calls▁begin｜>",), {"vllm": "deepseek_v3"}),
)
"""Markers that a template with tools writes, all of them; the specific before the general."""

_THINK = ("<think>", "</think>")


def parser_flags(
    engine: EngineName, source: TemplateSource | None, checkpoint: Checkpoint
) -> tuple[tuple[str, ...], str | None]:
    """Return the flags that make `engine` parse tool calls and reasoning, and a note about them.

    Reasoning is parsed only where both of its marks are tokens of the vocabulary: engines refuse to start
    otherwise.
    """
    if source is None:
        return (), None
    flags: list[str] = []
    tools = _tool_parser(engine, source.jinja)
    if tools is not None:
        flags += [*(["--enable-auto-tool-choice"] if engine == "vllm" else []), "--tool-call-parser", tools]
    reasoning = _reasoning_parser(engine, source.jinja, checkpoint)
    if reasoning is not None:
        flags += ["--reasoning-parser", reasoning]
    return tuple(flags), f"the chat template asks for {' '.join(flags)}" if flags else None


def _tool_parser(engine: EngineName, jinja: str) -> str | None:
    if "tools" not in jinja:
        return None
    for markers, names in _TOOLS:
        if all(marker in jinja for marker in markers):
            return names.get(engine)
    return None


def _reasoning_parser(engine: EngineName, jinja: str, checkpoint: Checkpoint) -> str | None:
    if not all(mark in jinja and checkpoint.tokenizer.id_of(mark) is not None for mark in _THINK):
        return None
    if engine == "lmdeploy":
        return "default"
    return "qwen3" if "enable_thinking" in jinja else "deepseek_r1"
