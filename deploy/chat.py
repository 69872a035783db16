"""A chat of several turns with a running server, streamed through the official openai client.

Does not know the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from deploy.client import base_url
from errors import CheckFailed

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["Chat"]


class Chat:
    """One conversation. `messages` grows with every turn; `model` is the first one the server lists."""

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
        pieces = []
        try:
            stream = self._client.chat.completions.create(
                model=self.model, messages=cast("Any", messages), stream=True, **self._options
            )
            for chunk in stream:
                piece = chunk.choices[0].delta.content if chunk.choices else None
                if piece:
                    pieces.append(piece)
                    yield piece
        except OpenAIError as error:
            raise self._refused(error) from error
        self.messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]

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
