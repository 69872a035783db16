"""What clients do, through the official openai client: each scenario returns what came back.

Used by the tests, which judge it, and by bench/clients.py, which shows it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from openai import APIStatusError, OpenAI

from tests.engines.running import Running

__all__ = ["CONCURRENT", "SCENARIOS", "Outcome", "run"]

CONCURRENT = 32
_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@dataclass(frozen=True)
class Outcome:
    """`what`: `stop`, `length`, `tool_calls`, `HTTP 404` …; `seconds`: until the answer was whole."""

    what: str
    text: str
    seconds: float
    tokens: int = 0
    first: float | None = None
    """Seconds to the first piece, where it was streamed."""

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.tokens > 1 else None


def run(name: str, server: Running) -> Outcome:
    """Run one scenario against a server; an error of the server is an outcome as well."""
    began = time.monotonic()
    with OpenAI(
        base_url=f"{server.url}/v1", api_key=server.key or "none", max_retries=0, timeout=300
    ) as client:
        try:
            return SCENARIOS[name](client, server)
        except APIStatusError as error:
            return Outcome(f"HTTP {error.status_code}", str(error.message), time.monotonic() - began)


def _ask(client: OpenAI, server: Running, messages: list[Any] | None = None, **options: Any) -> Outcome:
    wanted = {"model": server.model, "temperature": 0, "max_tokens": 40, **options}
    began = time.monotonic()
    done = client.chat.completions.create(messages=messages or [{"role": "user", "content": "Hi!"}], **wanted)
    choice = done.choices[0]
    calls = [call.function.name for call in choice.message.tool_calls or ()]
    return Outcome(
        str(choice.finish_reason),
        " ".join(calls) or choice.message.content or "",
        time.monotonic() - began,
        done.usage.completion_tokens if done.usage else 0,
    )


def _stream(client: OpenAI, server: Running) -> Outcome:
    began, first, pieces, reason, tokens = time.monotonic(), None, [], None, 0
    for chunk in client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": "Hi!"}],
        temperature=0,
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    ):
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        if chunk.choices:
            reason = chunk.choices[0].finish_reason or reason
            if text := chunk.choices[0].delta.content:
                first = first or time.monotonic() - began
                pieces.append(text)
    what = f"{reason} in {'several pieces' if len(pieces) > 1 else 'one piece'}"
    return Outcome(what, "".join(pieces), time.monotonic() - began, tokens, first)


def _several_turns(client: OpenAI, server: Running) -> Outcome:
    messages = [{"role": "user", "content": "Hi!"}]
    said = _ask(client, server, messages)
    messages += [{"role": "assistant", "content": said.text}, {"role": "user", "content": "Thank you!"}]
    return _ask(client, server, messages)


def _many(client: OpenAI, server: Running) -> Outcome:
    began = time.monotonic()
    with ThreadPoolExecutor(CONCURRENT) as pool:
        asked = [
            pool.submit(
                _ask, client, server, [{"role": "user", "content": f"Say the number {n}."}], max_tokens=4
            )
            for n in range(CONCURRENT)
        ]
        done = [future.result() for future in asked]
    counts = Counter("answered" if outcome.text else "empty" for outcome in done)
    what = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return Outcome(what, "", time.monotonic() - began, sum(outcome.tokens for outcome in done))


def _wrong_key(client: OpenAI, server: Running) -> Outcome:
    return _ask(client.with_options(api_key="wrong"), server)


SCENARIOS: Mapping[str, Callable[[OpenAI, Running], Outcome]] = {
    "chat": _ask,
    "streaming": _stream,
    "several turns": _several_turns,
    "tools": lambda client, server: _ask(
        client,
        server,
        [{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[_WEATHER],
        tool_choice="required",
        max_tokens=96,
    ),
    "wrong model": lambda client, server: _ask(client, server, model="no-such-model"),
    "wrong key": _wrong_key,
    "too long a prompt": lambda client, server: _ask(
        client, server, [{"role": "user", "content": "word " * 20_000}], max_tokens=4
    ),
    f"{CONCURRENT} at once": _many,
}
