"""What Ollama makes of a request before its template runs: merged messages and the template's variables.

Knows Ollama 0.13 to 0.33. Does not know any template.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from chat_templates.dialects.gotemplate_values import JsonList, JsonMap, Struct
from chat_templates.dialects.ollama_values import tool_value
from chat_templates.template import Message
from chat_templates.thinking import reasoning_of
from errors import TemplateError

__all__ = ["collate", "variables", "without_thoughts"]


def collate(messages: Sequence[Message]) -> tuple[str, list[dict[str, Any]]]:
    """Return what Ollama makes of `messages`: all system texts joined, and the messages merged by role.

    Consecutive messages of one role become one, joined by an empty line, but for tool results. Each text
    part of a content list is a message of its own before that.
    """
    merged: list[dict[str, Any]] = []
    systems: list[str] = []
    for message in (part for whole in messages for part in _parts(whole)):
        if message["role"] == "system":
            systems.append(message["content"])
        if merged and merged[-1]["role"] == message["role"] != "tool":
            merged[-1] = {**merged[-1], "content": f"{merged[-1]['content']}\n\n{message['content']}"}
        else:
            merged.append(message)
    return "\n\n".join(systems), merged


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message.get("content") or ""
    if isinstance(content, str):
        return [{**message, "content": content}]
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        raise TemplateError("Portside renders text only: a message holds an image or another kind of part.")
    return [{**message, "content": part["text"]} for part in content]


def variables(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    thinking: bool | None = None,
) -> dict[str, Any]:
    """Return what a template in messages mode can use.

    `thinking`: what the request, or Ollama for it, says about thinking.
    """
    system, merged = collate(messages)
    return {
        "System": system,
        "Messages": [_message(message) for message in merged],
        "Tools": JsonList(map(tool_value, tools or ())),
        "Response": "",
        "Think": bool(thinking),
        "ThinkLevel": "",
        "IsThinkSet": thinking is not None,
    }


def without_thoughts(messages: Sequence[Message]) -> list[Message]:
    """Return `messages` without the thoughts that begin an answer before the last question.

    Ollama does so before the template runs, for models of the architecture qwen3. An answer that only begins
    a thought loses all its text (Ollama's thinking/parser.go).
    """
    asked = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)
    return [
        _without_thought(message) if index < asked and message["role"] == "assistant" else message
        for index, message in enumerate(messages)
    ]


def _without_thought(message: Message) -> Message:
    content = message.get("content")
    if not isinstance(content, str) or not content.lstrip().startswith("<think>"):
        return message
    return {**message, "content": content.partition("</think>")[2].lstrip()}


def _message(message: Message) -> Struct:
    fields = {
        "Role": message["role"],
        "Content": message["content"],
        "Thinking": reasoning_of(message),
        "Images": [],
        "ToolCalls": [_tool_call(call, i) for i, call in enumerate(message.get("tool_calls") or ())],
        "ToolName": message.get("name") or "",
        "ToolCallID": message.get("tool_call_id") or "",
    }
    return Struct("*template.templateMessage", fields)


def _tool_call(call: dict[str, Any], index: int) -> Struct:
    function = call.get("function", call)
    arguments = function.get("arguments") or {}
    try:
        decoded = json.loads(arguments) if isinstance(arguments, str) else arguments
        fields = {"Name": function["name"], "Index": index, "Arguments": JsonMap(decoded)}
    except (ValueError, TypeError, KeyError) as error:
        raise TemplateError(f"A tool call's function is not a name and a JSON object: {error}.") from error
    return Struct(
        "template.templateToolCall",
        {"ID": call.get("id") or "", "Function": Struct("template.templateToolCallFunction", fields)},
    )
