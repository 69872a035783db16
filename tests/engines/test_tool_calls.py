"""Tool calls through the official openai client, from a model that was shown one in its conversation.

The sample was not trained to call tools. After one example it writes the markup of the template (tools.jinja,
ChatML with the `<tool_call>` of Qwen2.5 and Hermes), so that an engine's parser has something to find.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.engines.running import Running, installed, serving

pytestmark = pytest.mark.engines

TEMPLATE = Path(__file__).with_name("tools.jinja")
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
EXAMPLE = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": json.dumps({"city": "London"})},
}
MESSAGES: Any = [
    {"role": "user", "content": "What is the weather in London?"},
    {"role": "assistant", "content": "", "tool_calls": [EXAMPLE]},
    {"role": "user", "content": "What is the weather in Paris?"},
]


@pytest.mark.parametrize("engine", ["llamacpp", "lmdeploy", "vllm"])
def test_a_call_comes_back_as_a_call(engine: str, sample: Path, tmp_path: Path) -> None:
    if not installed(engine):
        pytest.skip(f"{engine} is not installed")
    with (
        serving(engine, sample, tmp_path, ["--template", str(TEMPLATE)]) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0, timeout=120) as client,
    ):
        _ask_once(client, server)
        _ask_streaming(client, server)


def _ask_once(client: OpenAI, server: Running) -> None:
    choice = (
        client.chat.completions.create(
            model=server.model, messages=MESSAGES, tools=[TOOL], temperature=0, max_tokens=64
        )
        .choices[0]
        .model_dump()
    )
    assert choice["finish_reason"] == "tool_calls", choice
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    assert not choice["message"]["content"], "the markup is the engine's, not the reader's"


def _ask_streaming(client: OpenAI, server: Running) -> None:
    name, arguments, reason, content = "", "", None, ""
    chunks = client.chat.completions.create(
        model=server.model,
        messages=MESSAGES,
        tools=[TOOL],
        temperature=0,
        max_tokens=64,
        stream=True,
    )
    for chunk in chunks:
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            content += choice.delta.content or ""
            for call in choice.delta.tool_calls or ():
                if call.function:
                    name += call.function.name or ""
                    arguments += call.function.arguments or ""
    assert (name, json.loads(arguments), reason) == ("get_weather", {"city": "Paris"}, "tool_calls")
    assert not content.strip()
