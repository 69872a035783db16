"""What goes wrong with a server, on every engine: how a test brings it about, and what the ladder says then.

    python -m tests.engines.matrix     the table of docs/health.md

A cell is a `Fault` (made in a running server, in test_matrix), the `Shown` name of the test that needs a
server of its own, or the reason why it `Cannot` happen.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import httpx

from deploy.leash import descendants
from tests.engines.running import ENGINES, Running, meddling, stopped

__all__ = ["FAILURES", "MATRIX", "Cannot", "Failure", "Fault", "Shown", "as_markdown"]

Make = Callable[[Running], AbstractContextManager[str]]
"""Brings the fault about in a running server; gives the URL at which it shows."""


@dataclass(frozen=True)
class Failure:
    """`rung`: the first that fails. `words`: what its detail says (or part of it, in order)."""

    rung: str
    words: str
    means: str


@dataclass(frozen=True)
class Fault:
    make: Make
    how: str
    words: str | None = None
    """Other words than the failure's."""


@dataclass(frozen=True)
class Shown:
    test: str
    """FILE::NAME below tests/."""


@dataclass(frozen=True)
class Cannot:
    reason: str


FAILURES: Mapping[str, Failure] = {
    "wrong template": Failure("stop", "never stops", "the checkpoint has another template than its training"),
    "wrong eos": Failure("stop", "never stops", "no file names the token that ends a turn"),
    "hangs": Failure("health", "does not answer", "the port is open and nothing comes back"),
    "engine hangs": Failure("generate", "no answer within", "/health is 200 and no chat is answered"),
    "engine dead": Failure("generate", "expected an answer, got HTTP 500", "/health is 200 and chats fail"),
    "sleeps": Failure("health", "the engine sleeps", "/health is 200 and the weights are not loaded"),
    "leaks markers": Failure("stop", "stops, but leaks", "markup of the template in the answer"),
    "never stops": Failure("stop", "never stops", "the stop ids are not looked at"),
    "empty text": Failure("stop", "empty: 3 of 3", "the answer ends before it begins"),
    "another prompt": Failure("prompt", "the prompts differ", "it renders another template than training's"),
}


def fields(**more: Any) -> Make:
    """Add fields to every chat request: the engine then does to us what it otherwise does by mistake."""
    return lambda running: meddling(running.url, **more)


def fault(name: str) -> Make:
    @contextlib.contextmanager
    def make(running: Running) -> Iterator[str]:
        with running.fault(name):
            yield running.url

    return make


@contextlib.contextmanager
def _hangs(running: Running) -> Iterator[str]:
    with stopped(running.pid):
        yield running.url


@contextlib.contextmanager
def _core_hangs(running: Running) -> Iterator[str]:
    """vLLM's engine core and its workers are processes below the API server."""
    with contextlib.ExitStack() as stack:
        for pid in descendants(running.pid):
            stack.enter_context(stopped(pid))
        yield running.url


def asleep(sleep: str, wake: str) -> Make:
    @contextlib.contextmanager
    def make(running: Running) -> Iterator[str]:
        headers = {"Authorization": f"Bearer {running.key}"}
        with httpx.Client(base_url=running.url, headers=headers, trust_env=False, timeout=30) as client:
            client.post(sleep, json={}).raise_for_status()
            try:
                _wait(client, asleep=True)
                yield running.url
            finally:
                client.post(wake, json={}).raise_for_status()
                _wait(client, asleep=False)

    return make


def _wait(client: httpx.Client, *, asleep: bool) -> None:
    """LMDeploy looks every few seconds how its engine is; vLLM's /health says nothing of it."""
    deadline = time.monotonic() + 30
    while (text := client.get("/health").text) and ("sleeping" in text) is not asleep:
        assert time.monotonic() < deadline, text
        time.sleep(0.2)


@contextlib.contextmanager
def _nothing(running: Running) -> Iterator[str]:
    """It is the judge who knows another training."""
    yield running.url


_ENDLESS = Fault(fields(ignore_eos=True), "request with `ignore_eos`")
_HANGS = Fault(_hangs, "SIGSTOP")
_OTHER = Fault(_nothing, "checked against another training")
_ONE_PROCESS = "server and engine are one process: it dies or hangs as a whole"

MATRIX: Mapping[str, Mapping[str, Fault | Shown | Cannot]] = {
    "wrong template": {
        "llamacpp": Shown("deploy/test_embedded.py::test_a_wrong_template_fails_at_stop"),
        "ollama": Shown("engines/test_ollama.py::test_a_wrong_template_is_found"),
        "lmdeploy": Shown("engines/test_lmdeploy.py::test_a_wrong_template_fails_at_stop"),
        "vllm": Shown("engines/test_vllm.py::test_a_wrong_template_fails_at_stop"),
    },
    "wrong eos": {
        "llamacpp": Shown("deploy/test_embedded.py::test_a_turn_end_that_no_file_names_is_repaired"),
        "ollama": Shown("engines/test_ollama.py::test_a_wrong_stop_is_found_and_repaired"),
        "lmdeploy": Shown("engines/test_lmdeploy.py::test_a_turn_end_that_no_file_names_is_repaired"),
        "vllm": Shown("engines/test_vllm.py::test_a_turn_end_that_no_file_names"),
    },
    "hangs": dict.fromkeys(ENGINES, _HANGS),
    "engine hangs": {
        "llamacpp": Cannot(_ONE_PROCESS),
        "ollama": Fault(fault("stuck"), "the runner does not answer"),
        "lmdeploy": Fault(fault("stuck"), "the stub engine does not answer"),
        "vllm": Fault(_core_hangs, "SIGSTOP for the engine core"),
    },
    "engine dead": {
        "llamacpp": Cannot(f"{_ONE_PROCESS}, and the death is told"),
        "ollama": Fault(fault("no-load"), "the runner is gone and loads no more"),
        "lmdeploy": Fault(fault("dead"), "the stub engine fails"),
        "vllm": Shown("engines/test_vllm.py::test_a_turn_end_that_no_file_names_is_repaired"),
    },
    "sleeps": {
        "llamacpp": Cannot("llama-server that sleeps wakes with the next chat"),
        "ollama": Cannot("a model that was unloaded is loaded by the next chat"),
        "lmdeploy": Fault(asleep("/sleep", "/wakeup"), "POST /sleep"),
        "vllm": Fault(asleep("/sleep?level=0", "/wake_up"), "POST /sleep"),
    },
    "leaks markers": {
        "llamacpp": Fault(fields(add_generation_prompt=False), "prompt without the assistant's prefix"),
        "ollama": Fault(fault("half-template"), "TEMPLATE without the assistant's prefix"),
        "lmdeploy": Fault(fields(include_stop_str_in_output=True), "`include_stop_str_in_output`"),
        "vllm": Fault(fields(add_generation_prompt=False), "prompt without the assistant's prefix"),
    },
    "never stops": {
        "llamacpp": _ENDLESS,
        "ollama": Fault(fault("drop-template"), "TEMPLATE forgotten"),
        "lmdeploy": _ENDLESS,
        "vllm": _ENDLESS,
    },
    "empty text": {
        "llamacpp": Fault(fields(logit_bias={"2": 100}), "`logit_bias` towards the end of the turn"),
        "ollama": Fault(fault("silent"), "bias towards the end of the turn"),
        "lmdeploy": Fault(fault("silent"), "the stub engine ends at once"),
        "vllm": Fault(fields(logit_bias={"2": 100}), "`logit_bias` towards the end of the turn"),
    },
    "another prompt": dict.fromkeys(ENGINES, _OTHER),
}


def as_markdown() -> str:
    """Return the table of the documents."""
    head = f"| what goes wrong | rung, and what it says | {' | '.join(ENGINES)} |"
    rows = [head, "|" + "---|" * (2 + len(ENGINES))]
    for name, failure in FAILURES.items():
        cells = [_words(MATRIX[name][engine]) for engine in ENGINES]
        rows.append(
            f"| **{name}**: {failure.means} | `{failure.rung}`: {failure.words} | {' | '.join(cells)} |"
        )
    return "\n".join(rows)


def _words(cell: Fault | Shown | Cannot) -> str:
    if isinstance(cell, Fault):
        return cell.how
    if isinstance(cell, Shown):
        file, _, name = cell.test.partition("::")
        return f"[its own server](../tests/{file}) `{name}`"
    return f"cannot: {cell.reason}"


if __name__ == "__main__":
    print(as_markdown())  # noqa: T201
