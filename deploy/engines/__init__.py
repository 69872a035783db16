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


def detect_engines() -> tuple[EngineFound, ...]:
    """Return every runtime of every engine, installed or not."""
    return tuple(found for engine in ENGINES.values() for found in engine.detect())


def plan_serving(
    request: ServeRequest, *, progress: Progress | None = None, execute: bool = False
) -> ServePlan:
    """Return the plan for `request`; with `execute`, what the engine loads is made, too (that may take long).

    Raises `UsageError` for an unknown engine, `EngineMissing`, what reading the model raises, and, with
    `execute`, `EngineFailed` for a taken port, before anything is made.
    """
    engine = ENGINES.get(request.engine)
    if engine is None:
        raise UsageError(f"There is no engine {request.engine!r}.", hint=f"Engines: {', '.join(ENGINES)}.")
    plan = engine.plan(request)
    if execute:
        if not plan.attached:
            require_bindable(plan.host, plan.port)
        plan.prepare(progress)
    return plan
