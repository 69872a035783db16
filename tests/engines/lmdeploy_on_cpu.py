"""The sitecustomize.py of an environment whose LMDeploy computes with transformers, and so without a GPU.

LMDeploy has no CPU engine. Everything around it is LMDeploy's own: the command line, the API server, the chat
template, the tokenizer, stop words and health. Only the forward pass is transformers', greedy, one request at
a time. LMDEPLOY_TEST_FAULT is `@FILE`, a file that names what goes wrong and is read with every request:

    stuck     never answers
    dead      fails, while its health is good
    unwell    says of itself that it is dead
    silent    ends every answer before it begins
"""

from __future__ import annotations

import asyncio
import importlib.abc
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any


def fault() -> str:
    place = os.environ.get("LMDEPLOY_TEST_FAULT", "").removeprefix("@")
    return Path(place).read_text() if place else ""


class Instance:
    """What LMDeploy calls a handle: runs one request at a time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def async_stream_infer(
        self, session_id: int, input_ids: list[int], gen_config: Any, **_: Any
    ) -> AsyncIterator[Any]:
        from lmdeploy.messages import EngineOutput, ResponseType

        while fault() == "stuck":  # not for good: LMDeploy tells an engine that makes no progress
            await asyncio.sleep(0.1)
        if fault() == "dead":
            yield EngineOutput(ResponseType.INTERNAL_ENGINE_ERROR, [])
            return
        stop = set() if gen_config.ignore_eos else set(gen_config.stop_token_ids or ())
        if fault() == "silent":
            yield EngineOutput(ResponseType.FINISH, [next(iter(stop))])
            return
        past, ids = None, list(input_ids)
        async with self.engine.turn:
            for count in range(1, gen_config.max_new_tokens + 1):
                token, past = await asyncio.to_thread(self.engine.step, ids, past)
                ids = [token]
                done = token in stop or count == gen_config.max_new_tokens
                yield EngineOutput(ResponseType.FINISH if done else ResponseType.SUCCESS, [token])
                if done:
                    break

    async def async_cancel(self, session_id: int) -> None:
        pass


class Engine:
    """As much of LMDeploy's engine as its server asks for."""

    def __init__(self, model_path: str, engine_config: Any) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(2)
        self.model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
        self.engine_config = engine_config
        self.turn = asyncio.Lock()

    def create_instance(self) -> Instance:
        return Instance(self)

    def step(self, ids: list[int], past: Any) -> tuple[int, Any]:
        import torch

        with torch.inference_mode():
            out = self.model(torch.tensor([ids]), past_key_values=past, use_cache=True)
        return int(out.logits[0, -1].argmax()), out.past_key_values

    async def get_health_status(self) -> dict[str, Any]:
        alive = fault() != "unwell"
        return {"alive": alive, "message": "" if alive else "the engine is dead", "schedule_metrics": None}

    def close(self) -> None:
        pass

    async def sleep(self, level: int = 1) -> None:
        pass

    def wakeup(self, tags: list[str]) -> None:
        pass


def _build(_self: Any, model_path: str, backend_config: Any = None, **_: Any) -> Engine:
    return Engine(model_path, backend_config)


def _exchange_engine(module: Any) -> None:
    module.AsyncEngine._build_pytorch = _build


def _need_no_gpu(module: Any) -> None:
    module.get_max_batch_size = lambda _device: 16  # would ask for the name of the GPU


PATCHES: dict[str, Callable[[Any], None]] = {
    "lmdeploy.serve.core.async_engine": _exchange_engine,
    "lmdeploy.cli.serve": _need_no_gpu,
}


class Patcher(importlib.abc.MetaPathFinder):
    """Changes the modules of `PATCHES` once they are loaded."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        patch = PATCHES.pop(fullname, None)
        spec = importlib.util.find_spec(fullname) if patch else None
        if spec is None or spec.loader is None or patch is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Patcher())
