"""A load for OpenAI-compatible servers, the same for every engine, and how fast they answer it.

Streamed chat completions through the official asynchronous openai client: a number of clients each wait for
their answer before they ask again. Prompts are made from a seed and all differ from their first word on, so
that no cache of common beginnings answers them. Does not know the terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from deploy.client import Client, ServerKind, base_url, identify
from errors import CheckFailed

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["Bench", "Level", "Load", "Request", "make_prompt", "run_load", "summarize"]

_WORDS = re.findall(
    r"\w+",
    """
    anchor basket bridge candle carpet castle cellar cherry circle copper corner cotton desert dinner doctor
    engine farmer feather finger forest garden ginger hammer harbour island jacket kettle ladder lemon letter
    market meadow mirror morning needle number orange paper pencil pepper planet pocket pony quarry rabbit
    ribbon river saddle salmon shadow silver spider summer table thunder ticket tunnel valley velvet village
    """,
)
_IGNORES_EOS = ("vllm", "llama.cpp", "lmdeploy")
"""Servers that go on to `max_tokens` when told to, so that all generate the same number of tokens."""
_CLOSES = ("llama.cpp",)
"""Servers that close a connection behind a streamed answer without saying so in its headers (measured): now
and then the next question on it would be lost."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, requests done, requests in all)."""


@dataclass(frozen=True)
class Load:
    """What is asked. `prompt_words` are words of one to two tokens each, the chat template comes on top."""

    concurrencies: tuple[int, ...] = (1, 2, 4, 8)
    requests: int = 16
    """A level, at least two for every client."""
    prompt_words: int = 128
    max_tokens: int = 64
    seed: int = 0
    timeout: float = 600.0
    """Seconds that one answer may take."""


@dataclass(frozen=True)
class Request:
    """One answer. Times in seconds; `gaps` are those between one piece of text and the next."""

    seconds: float
    first: float | None
    """From the question to the first piece of text."""
    gaps: tuple[float, ...]
    tokens: int
    prompt_tokens: int | None
    counted: bool
    """Whether the server has told the tokens; else every piece counts as one."""
    error: str | None = None


@dataclass(frozen=True)
class Level:
    """All answers at one number of clients. Percentiles in seconds, None where there is no value."""

    concurrency: int
    requests: int
    """Answered or failed."""
    errors: dict[str, int]
    """What went wrong -> how often; failed requests count in no other figure."""
    seconds: float
    tokens: int
    tokens_per_second: float
    """Of all clients together."""
    requests_per_second: float
    time_to_first_token: dict[str, float | None]
    inter_token: dict[str, float | None]
    latency: dict[str, float | None]
    prompt_tokens: float | None
    """Mean of what the server has counted."""
    counted: bool


@dataclass(frozen=True)
class Bench:
    """The whole run; `interrupted`: there would have been more."""

    url: str
    model: str
    server: str
    load: Load
    ignore_eos: bool
    levels: tuple[Level, ...]
    interrupted: bool = field(default=False)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def make_prompt(load: Load, number: int) -> str:
    """Return the prompt of request `number`: the same one for the same seed, unlike any other's beginning."""
    chance = random.Random(f"{load.seed}:{number}")
    words = " ".join(chance.choice(_WORDS) for _ in range(load.prompt_words))
    return f"{number} {words}. Tell a long story in which these words occur."


def run_load(
    url: str,
    load: Load,
    *,
    api_key: str | None = None,
    model: str | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Bench:
    """Put the load to the server at `url`, one level after the other; Ctrl-C ends it with what there is.

    Raises `CheckFailed` when the server cannot be asked at all.
    """
    root = base_url(url)
    with Client(root, api_key=api_key) as client:
        listed = client.get("/v1/models")
    entries = listed.json.get("data") if isinstance(listed.json, dict) else None
    if not listed.ok or not entries:
        raise CheckFailed(
            f"The server at {root} lists no model: {listed.words()}",
            hint=f"`portside health {root}` says more.",
        )
    kind = identify(listed)
    runner = _Runner(root, model or str(entries[0]["id"]), load, kind, api_key, progress)
    levels, interrupted = asyncio.run(runner.run())
    return Bench(root, runner.model, kind, load, runner.ignore_eos, levels, interrupted)


class _Runner:
    """The clients of all levels."""

    def __init__(
        self, root: str, model: str, load: Load, kind: ServerKind, api_key: str | None, progress: Progress
    ) -> None:
        self.root = root
        self.model = model
        self.load = load
        self.ignore_eos = kind in _IGNORES_EOS
        self.closes = kind in _CLOSES
        self.api_key = api_key
        self.progress = progress
        self.next = 0
        """Number of the next prompt."""

    async def run(self) -> tuple[tuple[Level, ...], bool]:
        levels: list[Level] = []
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):  # not the main thread
            loop.add_signal_handler(signal.SIGINT, stop.set)
        try:
            async with self._client() as client:
                self.progress("Warming up", 0, 1)
                await self._level(client, 2, 2, stop, "Warming up")
                for concurrency in self.load.concurrencies:
                    if stop.is_set():
                        break
                    count = max(self.load.requests, 2 * concurrency)
                    began = time.perf_counter()
                    found = await self._level(client, concurrency, count, stop, f"{concurrency} at a time")
                    levels += [summarize(concurrency, found, time.perf_counter() - began)] if found else []
        finally:
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                loop.remove_signal_handler(signal.SIGINT)
        return tuple(levels), stop.is_set()

    def _client(self) -> AsyncOpenAI:
        import httpx
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        local = httpx.URL(self.root).host in ("127.0.0.1", "localhost", "::1")
        return AsyncOpenAI(
            base_url=f"{self.root}/v1",
            api_key=self.api_key or "none",
            max_retries=0,  # a retry would hide an error, and count its time
            timeout=self.load.timeout,
            default_headers={"Connection": "close"} if self.closes else None,
            http_client=DefaultAsyncHttpxClient(trust_env=not local),
        )

    async def _level(
        self, client: AsyncOpenAI, concurrency: int, count: int, stop: asyncio.Event, what: str
    ) -> list[Request]:
        """Return what was answered, or failed, until all was asked or `stop` was set."""
        done: list[Request] = []
        numbers = list(range(self.next, self.next + count))
        self.next += count

        async def work() -> None:
            while numbers and not stop.is_set():
                done.append(await self._ask(client, numbers.pop(0)))
                self.progress(what, len(done), count)

        workers = [asyncio.create_task(work()) for _ in range(concurrency)]
        stopped = asyncio.create_task(stop.wait())
        everyone = asyncio.gather(*workers)
        waited: list[asyncio.Future[Any]] = [everyone, stopped]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        for task in (*workers, stopped):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await everyone
        return done

    async def _ask(self, client: AsyncOpenAI, number: int) -> Request:
        import httpx
        from openai import OpenAIError

        began = time.perf_counter()
        times: list[float] = []
        usage: Any = None
        error = None
        try:
            stream: Any = await client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": make_prompt(self.load, number)}],
                max_tokens=self.load.max_tokens,
                temperature=0,
                seed=self.load.seed,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True} if self.ignore_eos else None,
            )
            async for chunk in stream:
                usage = chunk.usage or usage
                delta = chunk.choices[0].delta if chunk.choices else None
                if delta and (delta.content or getattr(delta, "reasoning_content", None)):
                    times.append(time.perf_counter())
            error = None if times else "no text came"
        except (OpenAIError, httpx.HTTPError, OSError, ValueError) as problem:
            error = _words(problem)
        return Request(
            seconds=time.perf_counter() - began,
            first=times[0] - began if times else None,
            gaps=tuple(after - before for before, after in itertools.pairwise(times)),
            tokens=usage.completion_tokens if usage else len(times),
            prompt_tokens=usage.prompt_tokens if usage else None,
            counted=usage is not None,
            error=error,
        )


def summarize(concurrency: int, requests: Sequence[Request], seconds: float) -> Level:
    """Return the figures of `requests`, which took `seconds` together."""
    good = [each for each in requests if each.error is None]
    tokens = sum(each.tokens for each in good)
    prompts = [each.prompt_tokens for each in good if each.prompt_tokens is not None]
    return Level(
        concurrency=concurrency,
        requests=len(requests),
        errors=dict(Counter(each.error for each in requests if each.error is not None)),
        seconds=seconds,
        tokens=tokens,
        tokens_per_second=tokens / seconds if seconds > 0 else 0.0,
        requests_per_second=len(good) / seconds if seconds > 0 else 0.0,
        time_to_first_token=_percentiles([each.first for each in good if each.first is not None]),
        inter_token=_percentiles([gap for each in good for gap in each.gaps]),
        latency=_percentiles([each.seconds for each in good]),
        prompt_tokens=statistics.fmean(prompts) if prompts else None,
        counted=all(each.counted for each in good),
    )


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean, p50, p90 and p99; a percentile is the value that so many do not exceed (nearest rank)."""
    if not values:
        return {"mean": None, "p50": None, "p90": None, "p99": None}
    ordered = sorted(values)
    ranks = {f"p{share}": ordered[-(-share * len(ordered) // 100) - 1] for share in (50, 90, 99)}
    return {"mean": statistics.fmean(ordered), **ranks}


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
