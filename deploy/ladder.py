"""The health ladder: seven rungs from "the process lives" to "it is fed the prompt it was trained on".

    process   the engine's process lives                       (only for a server that Portside started)
    port      its port accepts connections
    health    GET /health is 200                               (judged where the server has one)
    models    GET /v1/models lists the model's name
    generate  a chat request yields a token
    stop      three greetings end by themselves, without markup of the template
    prompt    the prompt the server feeds the model is the training prompt

The ladder has one owner, `Ladder`, which climbs in order. While a server of ours starts, `port` and `health`
wait for it; its death ends any waiting at once. The steps of a plan (a model is created, say) belong to a
rung and fail with it. A rung that cannot be judged has `ok` None and says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from deploy import ports, prompts, stopping, symptoms
from deploy.causes import classify
from deploy.client import Client, Reply, ServerKind, behind_proxy, identify
from deploy.process import EngineProcess, ExitStatus
from deploy.report import RUNGS, Cause, HealthReport, Rung
from errors import CheckFailed, EngineFailed

if TYPE_CHECKING:
    from chat_templates import TemplateSource
    from checkpoint import Checkpoint
    from deploy.engines.base import Step

__all__ = ["Ladder", "Target", "engine_died"]

HEARTBEAT = 5.0
"""Seconds between two signs of life while a server loads."""
TOKEN_SECONDS = 180.0
"""How long `generate` waits for its token: an engine may load or compile with the first request."""
_PROBE_INTERVAL = 0.1
_HEALTH_TIMEOUT = 5.0
_STOP_TIMEOUT = 600.0
_TAIL = 12


@dataclass(frozen=True)
class Target:
    """What is checked: the name it should serve, and the training it should answer like, where known."""

    model: str | None = None
    source: TemplateSource | None = None
    checkpoint: Checkpoint | None = None


class _NotReady(Exception):
    """How a rung says no."""

    def __init__(
        self, detail: str, hint: str | None = None, *, hangs: bool = False, cause: Cause | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.cause = cause
        self.hangs = hangs
        """The server answers nothing: there is no use in asking more."""


class Ladder:
    """Climbs the rungs of one server. `patience`: seconds that `port` and `health` wait for it to come up.

    `token_seconds`: how long `generate` waits for its token.
    """

    def __init__(
        self,
        client: Client,
        target: Target,
        *,
        process: EngineProcess | None = None,
        steps: Sequence[Step] = (),
        patience: float = 0.0,
        token_seconds: float = TOKEN_SECONDS,
        on_rung: Callable[[Rung], None] | None = None,
        on_wait: Callable[[float, str], None] | None = None,
    ) -> None:
        self.client = client
        self.target = target
        self.process = process
        self.steps = steps
        self.patience = patience
        self.token_seconds = token_seconds
        self.on_rung = on_rung or (lambda rung: None)
        self.on_wait = on_wait or (lambda seconds, last_line: None)
        self.model = target.model
        self.server: ServerKind = "unknown"
        self._began = time.monotonic()
        self._rungs: list[Rung] = []
        self._hangs = False

    def climb(self, rungs: Sequence[str] = RUNGS) -> HealthReport:
        """Climb `rungs`, until one on which the next ones stand has failed.

        Raises `EngineFailed` when a server of ours dies or does not come up in time, and whatever the
        client's guard raises.
        """
        self._began = time.monotonic()
        lost: str | None = None
        self._hangs = False
        for name in rungs:
            rung = self._try(name) if lost is None else Rung(name, None, 0.0, f"not tried: {lost} failed")
            self._rungs.append(rung)
            self.on_rung(rung)
            if rung.ok is False and lost is None and (self._hangs or name not in ("stop", "health")):
                lost = name
        return HealthReport(self.client.url, tuple(self._rungs), self.server, self.model)

    def _try(self, name: str) -> Rung:
        began = time.monotonic()
        step: Callable[[], tuple[bool | None, str]] = getattr(self, f"_{name}")
        hint, cause = None, None
        try:
            done = [part.run(self.client) for part in self.steps if part.rung == name]
            ok, detail = step()
            detail = "; ".join((*done, detail))
        except CheckFailed as error:
            ok, detail, hint = False, error.message, error.hint
        except _NotReady as error:
            ok, detail, hint, cause = False, error.detail, error.hint, error.cause
            self._hangs = error.hangs
        return Rung(name, ok, time.monotonic() - began, detail, hint, cause)

    def _process(self) -> tuple[bool | None, str]:
        if self.process is None:
            return None, "not a process of ours"
        return True, f"process {self.process.pid} runs"

    def _port(self) -> tuple[bool | None, str]:
        url = httpx.URL(self.client.url)
        host, port = url.host, url.port or (443 if url.scheme == "https" else 80)
        if behind_proxy(url):
            return None, f"{host} is reached through a proxy"
        if not self._wait_until(lambda: ports.is_open(host, port)):
            raise _NotReady(
                f"nothing accepts connections on {host}:{port}.",
                "Is the server running, and does it listen on this address? In a container 127.0.0.1 is the "
                "container itself.",
            )
        return True, f"{host}:{port} accepts connections"

    def _health(self) -> tuple[bool | None, str]:
        replies: list[Reply] = []

        def settled() -> bool:
            replies.append(self.client.get("/health", timeout=_HEALTH_TIMEOUT))
            return replies[-1].status not in (0, 502, 503)

        self._wait_until(settled)
        reply = replies[-1]
        if reply.ok:
            if wake := symptoms.way_to_wake(self.client, reply):
                raise _NotReady(
                    "GET /health is 200, but the engine sleeps: it answers no request.",
                    f"Wake it with POST {wake}, or start it again.",
                    hangs=True,
                    cause="sleeping",
                )
            return True, "GET /health is 200"
        if reply.status in (404, 405):
            return self._without_health()
        if reply.status == 503:
            raise _NotReady(f"still loading, or unwell: {reply.words()}.", "Wait, then ask again.")
        if reply.status in (401, 403):
            return None, f"GET /health wants a key: {reply.words()}"
        if reply.status == 0:
            raise _NotReady(
                f"the server accepts connections and does not answer: GET /health, {reply.words()}.",
                "It hangs, or something that is no HTTP server has the port. Its log should say more; start "
                "it again.",
                hangs=True,
                cause=_cause(reply),
            )
        raise _NotReady(f"GET /health: expected 200, got {reply.words()}.", "Its log should say more.")

    def _without_health(self) -> tuple[bool | None, str]:
        """llama-cpp-python opens its port once the model is loaded, and describes itself even while busy."""
        body = self.client.get("/openapi.json", timeout=_HEALTH_TIMEOUT).json
        info = body.get("info") if isinstance(body, dict) else None
        if isinstance(info, dict) and "llama.cpp Python" in str(info.get("title")):
            return True, "no /health; GET /openapi.json is 200, and its port opens once the model is loaded"
        return None, "the server has no /health"

    def _models(self) -> tuple[bool | None, str]:
        reply = self.client.get("/v1/models")
        self._require_authorized(reply)
        body = reply.json if reply.ok else None
        if not isinstance(body, dict) or "data" not in body:
            raise _NotReady(
                f"GET /v1/models: expected a list of models, got {reply.words()}.",
                "This is not the URL of an OpenAI-compatible server.",
                cause=_cause(reply),
            )
        self.server = identify(reply)
        names = [str(entry.get("id")) for entry in body["data"] or () if isinstance(entry, dict)]
        if not names:
            raise _NotReady("the server lists no model.", "Load one first.")
        wanted = self.model
        if wanted is not None and wanted not in names and f"{wanted}:latest" not in names:
            raise _NotReady(
                f"expected the model {wanted!r}, the server lists {', '.join(map(repr, names))}.",
                "Ask for one of these, or another server is at this address.",
            )
        self.model = wanted or names[0]
        software = "" if self.server == "unknown" else f" ({self.server})"
        return True, f"lists {', '.join(names[:5])}{software}"

    def _generate(self) -> tuple[bool | None, str]:
        began = time.monotonic()
        reply = self.client.post(
            "/v1/chat/completions", self._question("Hi!", max_tokens=1), timeout=self.token_seconds
        )
        self._require_authorized(reply)
        answer = stopping.read_answer(reply.json) if reply.ok else None
        if answer is None:
            raise _NotReady(
                f"a chat request: expected an answer, got {reply.words()}.",
                symptoms.why_no_answer(reply),
                cause=_cause(reply),
            )
        if answer.finish_reason in symptoms.BROKEN_OFF:
            raise _NotReady(
                f"a chat request: the engine gave it up, finish_reason is {answer.finish_reason!r}.",
                symptoms.DEAD_BEHIND,
            )
        return True, f"first token after {time.monotonic() - began:.2f} s"

    def _stop(self) -> tuple[bool | None, str]:
        budget = stopping.BUDGET
        answers = self._answers(budget)
        if any(answer.still_thinking for answer in answers):
            budget = stopping.THINKING_BUDGET
            answers = self._answers(budget)
        markers = stopping.markers_of(self.target.source, self.target.checkpoint)
        verdict = stopping.judge(answers, markers, budget)
        if not verdict.ok:
            raise _NotReady(verdict.detail, verdict.hint)
        return True, verdict.detail

    def _prompt(self) -> tuple[bool | None, str]:
        if self.target.source is None:
            return None, "no training template to compare with (--checkpoint, --template)"
        found = prompts.compare_prompts(
            self.client, self.server, self.model or "", self.target.source, self.target.checkpoint
        )
        if found.ok is False:
            raise _NotReady(found.detail, found.hint)
        return found.ok, found.detail

    def _answers(self, budget: int) -> list[stopping.Answer]:
        questions = [self._question(question, budget) for question in stopping.QUESTIONS]
        answers = []
        for reply in self.client.post_all("/v1/chat/completions", questions, timeout=_STOP_TIMEOUT):
            answer = stopping.read_answer(reply.json) if reply.ok else None
            if answer is None:
                raise _NotReady(f"a question of {budget} tokens at most: got {reply.words()}.")
            answers.append(answer)
        return answers

    def _question(self, text: str, max_tokens: int) -> dict[str, Any]:
        messages = [{"role": "user", "content": text}]
        return {"model": self.model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}

    def _require_authorized(self, reply: Reply) -> None:
        if reply.status not in (401, 403):
            return
        given = "refuses the API key it was given" if self.client.api_key else "wants an API key"
        raise _NotReady(
            f"the server {given} ({reply.words()}).",
            "Pass the server's key with --api-key or PORTSIDE_API_KEY.",
        )

    def _wait_until(self, condition: Callable[[], bool]) -> bool:
        """Try until it is true or the patience is at its end, with a sign of life from time to time."""
        last_sign = time.monotonic()
        while not condition():
            self.client.guard()
            waited = time.monotonic() - self._began
            if waited >= self.patience:
                if self.process is None:
                    return False
                raise self._too_slow(waited)
            if time.monotonic() - last_sign >= HEARTBEAT:
                last_sign = time.monotonic()
                self.on_wait(waited, self._last_line())
            self.client.pause(_PROBE_INTERVAL)
        return True

    def _last_line(self) -> str:
        lines = self.process.tail(1) if self.process else []
        return lines[-1] if lines else ""

    def _too_slow(self, waited: float) -> EngineFailed:
        assert self.process is not None
        return EngineFailed(
            f"The engine was not ready after {waited:.0f} s. Its last words: {self._last_line()!r} "
            f"(log: {self.process.log}).",
            hint="Give it more time with --startup-seconds if it is still loading.",
        )


def _cause(reply: Reply) -> Cause | None:
    if reply.timed_out:
        return "silent"
    return "busy" if reply.status in (429, 503) else None


def engine_died(process: EngineProcess, status: ExitStatus, while_doing: str) -> EngineFailed:
    """Return the error that tells how the engine died, why in all likelihood, and its last words."""
    diagnosis = classify(status, process.tail(400))
    lines = process.tail(_TAIL)
    if diagnosis.evidence is not None and not any(diagnosis.evidence in line for line in lines):
        lines = [diagnosis.evidence, "…", *lines]
    log = "".join(f"\n    {line[:300]}" for line in lines)
    return EngineFailed(
        f"The engine ended while {while_doing} ({status}). {diagnosis.sentence} "
        f"The end of its log ({process.log}):{log}",
        hint=diagnosis.hint,
    )
