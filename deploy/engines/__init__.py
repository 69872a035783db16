"""The engines Portside can launch: one file an engine, each a function from a request to a plan."""

from __future__ import annotations

from deploy.engines.base import Engine, EngineFound, Progress, ServePlan, ServeRequest
from deploy.engines.llamacpp import LlamaCpp
from deploy.engines.lmdeploy import Lmdeploy
from deploy.engines.ollama import Ollama
from deploy.engines.vllm import Vllm
from deploy.ports import require_bindable
from errors import UsageError

__all__ = ["ENGINES", "EngineFound", "ServePlan", "ServeRequest", "detect_engines", "plan_serving"]

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (LlamaCpp(), Vllm(), Lmdeploy(), Ollama())}

_KEY_FLAGS = ("--api-key", "--api-keys", "--api-key-file")
"""With which llama-server, vLLM and LMDeploy are told a key."""


def detect_engines() -> tuple[EngineFound, ...]:
    """Return every runtime of every engine, installed or not."""
    return tuple(found for engine in ENGINES.values() for found in engine.detect())


def plan_serving(
    request: ServeRequest, *, progress: Progress | None = None, execute: bool = False
) -> ServePlan:
    """Return the plan for `request`; with `execute`, what the engine loads is made, too (that may take long).

    Raises `UsageError` for an unknown engine and for a key among its arguments, `EngineMissing`, what reading
    the model raises, and, with `execute`, `EngineFailed` for a taken port, before anything is made.
    """
    engine = ENGINES.get(request.engine)
    if engine is None:
        raise UsageError(f"There is no engine {request.engine!r}.", hint=f"Engines: {', '.join(ENGINES)}.")
    if any(word.partition("=")[0] in _KEY_FLAGS for word in request.engine_args):
        raise UsageError(
            "An API key among the engine's arguments is shown by `ps`, and the checks do not know it.",
            hint="Give it to Portside with --api-key-file FILE or PORTSIDE_API_KEY, in front of the --.",
        )
    plan = engine.plan(request)
    if execute:
        if not plan.attached:
            require_bindable(plan.host, plan.port)
        plan.prepare(progress)
    return plan
