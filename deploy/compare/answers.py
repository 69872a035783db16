"""The same questions to several servers, and where their answers part from the reference's.

Through the official openai client, without chance (temperature 0), with the probabilities of the likeliest
tokens where a server gives them. Does not know the terminal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.chat import Chat
from deploy.client import Client
from deploy.engines import ServeRequest, plan_serving
from deploy.process import EngineProcess
from deploy.supervise import guard_of
from errors import CheckFailed, EngineFailed

__all__ = ["QUESTIONS", "Answer", "Parting", "Token", "ask", "part", "served"]

QUESTIONS = (
    "What is the capital of France? Answer in one sentence.",
    "Explain in two sentences why the sky is blue.",
    "Write a Python function that returns the larger of two numbers.",
)
_TOP = 5
_CONTEXT = 30
"""Characters of the common beginning that are shown."""


@dataclass(frozen=True)
class Token:
    """A token that was generated; `top` are the likeliest ones with their probabilities, best first."""

    text: str
    probability: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Answer:
    """What a server said. `tokens` is empty where it gives no probabilities."""

    server: str
    question: str
    text: str
    finish_reason: str | None
    tokens: tuple[Token, ...] = field(default=(), repr=False)

    def as_json(self) -> dict[str, Any]:
        return {"server": self.server, "text": self.text, "finish_reason": self.finish_reason}


@dataclass(frozen=True)
class Parting:
    """Where `answer` leaves the reference's; `character` None: it never does."""

    answer: Answer
    character: int | None
    common: str
    """The end of what both say."""
    reference_top: tuple[tuple[str, float], ...] = ()
    """What the reference expected there, with probabilities."""
    top: tuple[tuple[str, float], ...] = ()
    """What this server expected there."""
    drift: float | None = None
    """Largest change of the chosen token's probability before they part; None without probabilities."""

    def as_json(self) -> dict[str, Any]:
        return {
            **self.answer.as_json(),
            "same": self.character is None,
            "parts_at": self.character,
            "common": self.common,
            "reference_expected": dict(self.reference_top),
            "expected": dict(self.top),
            "drift": self.drift,
        }


def ask(
    url: str, server: str, questions: Sequence[str], max_tokens: int, api_key: str | None
) -> list[Answer]:
    """Ask everything of one server. Raises `CheckFailed` when it does not answer."""
    from openai import BadRequestError, OpenAI, OpenAIError

    model = Chat(url, api_key=api_key).model
    client = OpenAI(base_url=f"{url.rstrip('/').removesuffix('/v1')}/v1", api_key=api_key or "none")
    answers = []
    for question in questions:
        request: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        try:
            try:
                reply = client.chat.completions.create(**request, logprobs=True, top_logprobs=_TOP)
            except BadRequestError:  # a server that gives no probabilities
                reply = client.chat.completions.create(**request)
        except OpenAIError as error:
            raise CheckFailed(
                f"{server} does not answer: {error}", hint=f"`portside health {url}`"
            ) from error
        choice = reply.choices[0]
        content = (choice.logprobs.content if choice.logprobs else None) or []
        tokens = tuple(_token(entry) for entry in content)
        answers.append(Answer(server, question, choice.message.content or "", choice.finish_reason, tokens))
    return answers


def part(reference: Answer, answer: Answer) -> Parting:
    """Compare two answers to the same question, character by character and by their tokens' probabilities."""
    length = min(len(reference.text), len(answer.text))
    at = next((i for i in range(length) if reference.text[i] != answer.text[i]), length)
    same = reference.text == answer.text
    pairs = list(zip(reference.tokens, answer.tokens, strict=False))
    step = next((i for i, (a, b) in enumerate(pairs) if a.text != b.text), len(pairs))
    drift = max((abs(a.probability - b.probability) for a, b in pairs[:step]), default=None)
    tops: tuple[Any, Any] = ((), ())
    if not same and step < len(pairs):
        tops = (pairs[step][0].top, pairs[step][1].top)
    common = reference.text[max(0, at - _CONTEXT) : at]
    return Parting(answer, None if same else at, common, *tops, drift)


@contextmanager
def served(model: Path, source: str, gguf_type: str) -> Iterator[str]:
    """Serve `model` with the embedded engine as `gguf_type` until the block ends; yield the URL."""
    request = ServeRequest(
        engine="llamacpp", model=model, source=source, gguf_type=gguf_type, port=0, runtime="embedded"
    )
    plan = plan_serving(request, execute=True)
    with EngineProcess(plan.argv, log=plan.log, env=plan.env, cleared=plan.cleared) as process:
        with Client(plan.url, guard=guard_of(process)) as client:
            waited = 0.0
            while not client.get("/health").ok:
                if waited > plan.startup_seconds:
                    raise EngineFailed(f"{gguf_type} was not ready within {waited:.0f} s (log: {plan.log}).")
                client.pause(0.2)
                waited += 0.2
        yield plan.url


def _token(entry: Any) -> Token:
    top = tuple((each.token, math.exp(each.logprob)) for each in entry.top_logprobs or ())
    return Token(entry.token, math.exp(entry.logprob), top)
