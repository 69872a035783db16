"""A chat of several turns with a running server, streamed through the official openai client.

Does not know the terminal.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.client import base_url
from errors import CheckFailed
from files import dump_json, write_text

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["Chat", "Turn"]


@dataclass(frozen=True)
class Turn:
    """How an answer ended, and how fast it came."""

    finish_reason: str | None
    """"stop": the model ended it; "length": it was cut off."""
    tokens: int | None
    """None where the server does not tell."""
    seconds: float
    """From the first piece to the last."""

    @property
    def tokens_per_second(self) -> float | None:
        """Of generation, without the reading of the prompt."""
        if self.tokens is None or self.tokens < 2 or self.seconds <= 0:
            return None
        return (self.tokens - 1) / self.seconds


class Chat:
    """One conversation. `messages` grows with every turn; `model` is the first one the server lists."""

    last: Turn | None = None
    """The latest answer's end."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        system: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> None:
        from openai import OpenAI

        self.url = base_url(url)
        self._client: OpenAI = OpenAI(base_url=f"{self.url}/v1", api_key=api_key or "none", max_retries=1)
        self._options: dict[str, Any] = {
            key: value
            for key, value in {"temperature": temperature, "max_tokens": max_tokens}.items()
            if value is not None
        }
        self.messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
        self.model = model or self._first_model()

    def say(self, text: str) -> Iterator[str]:
        """Yield the answer to `text` piece by piece, as the server writes it.

        What was said before stays part of the conversation; a turn that fails does not become part of it.
        Raises `CheckFailed` when the server refuses or is gone.
        """
        from openai import OpenAIError

        messages = [*self.messages, {"role": "user", "content": text}]
        pieces: list[str] = []
        reason, tokens, first = None, None, time.monotonic()
        try:
            for chunk in self._stream(messages):
                tokens = chunk.usage.completion_tokens if chunk.usage else tokens
                choice = chunk.choices[0] if chunk.choices else None
                reason = choice.finish_reason or reason if choice else reason
                if choice is None or not choice.delta.content:
                    continue
                first = first if pieces else time.monotonic()
                pieces.append(choice.delta.content)
                yield pieces[-1]
        except OpenAIError as error:
            raise self._refused(error) from error
        self.last = Turn(reason, tokens, time.monotonic() - first)
        self.messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]

    def reset(self) -> None:
        """Begin again; the system message stays."""
        self.messages = [message for message in self.messages if message["role"] == "system"]

    def set_system(self, text: str) -> None:
        """Say another system message, or with an empty text none; what was said before is forgotten."""
        self.messages = [{"role": "system", "content": text}] if text else []

    def save(self, path: Path) -> None:
        """Write model and messages as JSON, as a request would have them. Raises `OutputError`."""
        write_text(path, dump_json({"model": self.model, "messages": self.messages}))

    def _stream(self, messages: list[dict[str, str]]) -> Any:
        from openai import BadRequestError

        ask = self._client.chat.completions.create
        arguments: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "stream": True,
            **self._options,
        }
        try:
            return ask(**arguments, stream_options={"include_usage": True})
        except BadRequestError:  # a server that does not know how to count
            return ask(**arguments)

    def _first_model(self) -> str:
        from openai import OpenAIError

        try:
            models = self._client.models.list().data or []
        except OpenAIError as error:
            raise self._refused(error) from error
        if not models:
            raise CheckFailed(f"The server at {self.url} lists no model.", hint="Load one first.")
        return models[0].id

    def _refused(self, error: Exception) -> CheckFailed:
        return CheckFailed(
            f"The server at {self.url} does not answer: {error}",
            hint=f"`portside health {self.url}` says more.",
        )
