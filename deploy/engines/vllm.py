"""vLLM: from a checkpoint directory to a running server.

vLLM lives in an environment of its own: PORTSIDE_VLLM or portside.toml names it (a virtual environment, its
python, or the `vllm` program), otherwise it is looked for on PATH and where Portside installs it. It is given
a served view of the checkpoint, so that template and stop ids are right, and the template once more
explicitly. Does not know what a view consists of.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from checkpoint import Checkpoint, ModelConfig
from deploy.artifacts import ViewArtifact
from deploy.engines.accelerators import find_accelerators, tensor_parallel
from deploy.engines.base import EngineFound, ServePlan, ServeRequest, log_path, startup_budget
from deploy.engines.environments import Environment, Place, find_environment
from deploy.engines.parsers import parser_flags
from deploy.engines.training import read_training
from errors import BadInput, EngineMissing, UsageError

__all__ = ["Vllm"]

INSTALL = "portside engines install vllm, or name one with PORTSIDE_VLLM"
PLACE = Place("PORTSIDE_VLLM", "vllm", "vllm")
STARTUP_BASE = 400.0
"""Seconds beyond the loading of weights: imports take 20 to 60, compiling and capturing graphs up to 300."""
CPU_CONTEXT = 4096
"""Tokens, on a CPU: where the model was trained for more, the cache would be larger than the model."""
CPU_CONVERSATIONS = 4
"""Conversations of full length that the cache holds on a CPU."""

_ENV = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONUNBUFFERED": "1"}
_CLEARED = ("VLLM_PORT", "VLLM_PORT_*", "VLLM_SERVICE_*", "VLLM_API_KEY", "VLLM_HOST_IP", "PYTHONPATH")
"""A Kubernetes service called `vllm` sets VLLM_PORT=tcp://…; a port of another instance collides."""


@dataclass(frozen=True)
class Installation:
    """A vLLM on this machine."""

    command: tuple[str, ...]
    """What begins the command line, before the model."""
    path: str
    version: str | None
    cpu_build: bool


IN_IMAGE = Installation(("vllm", "serve"), "vllm", None, False)


class Vllm:
    """The engine `vllm`."""

    name = "vllm"

    def detect(self) -> tuple[EngineFound, ...]:
        found = find_installation()
        runtime = "cpu" if found is not None and found.cpu_build else "vllm"
        path, version = (None, None) if found is None else (found.path, found.version)
        return (EngineFound(self.name, runtime, path, version, INSTALL),)

    def plan(self, request: ServeRequest) -> ServePlan:
        """Decide everything. The plan's artifact is the served view (as is: none)."""
        if request.runtime is not None:
            raise UsageError("vllm has one runtime only.", hint="Leave --runtime out.")
        if request.model.suffix == ".gguf":
            raise BadInput(
                f"vLLM serves checkpoint directories, and {request.model} is a GGUF file.",
                hint="Give the checkpoint, or use llamacpp.",
            )
        installed = IN_IMAGE if request.in_image else require_installation()
        training = read_training(request)
        checkpoint, source, stops = training.checkpoint, training.source, training.stops
        artifact = None
        if source is not None and stops is not None and not request.as_is:
            artifact = ViewArtifact(checkpoint, source, stops)
        served = artifact.path if artifact else checkpoint.path.absolute()
        port, name = request.concrete_port(), request.name or checkpoint.name
        machine, cpu_env, notes = ((), {}, ()) if request.in_image else _for_machine(checkpoint, installed)
        parsers, parser_note = parser_flags("vllm", None if request.as_is else source, checkpoint)
        argv = [
            *installed.command,
            *([str(served)] if installed.command[-1] == "serve" else ["--model", str(served)]),
            *("--host", request.host or "0.0.0.0", "--port", str(port), "--served-model-name", name),
            *(("--chat-template", str(served / "chat_template.jinja")) if artifact else ()),
            *machine,
            *parsers,
            *request.engine_args,
        ]
        key = {"VLLM_API_KEY": request.api_key} if request.api_key else {}
        return ServePlan(
            engine=self.name,
            runtime="cpu" if installed.cpu_build else "vllm",
            name=name,
            host=request.host,
            port=port,
            argv=tuple(argv),
            env={**_ENV, **cpu_env, **key},
            cleared=_CLEARED,
            served=served,
            log=log_path(self.name, port),
            startup_seconds=request.startup_seconds or startup_budget(STARTUP_BASE, checkpoint.weights.bytes),
            artifact=artifact,
            source=source,
            checkpoint=checkpoint,
            api_key=request.api_key,
            allow_unhealthy=request.allow_unhealthy,
            notes=(*notes, *([parser_note] if parser_note else [])),
        )


def _for_machine(
    checkpoint: Checkpoint, installed: Installation
) -> tuple[tuple[str, ...], dict[str, str], tuple[str, ...]]:
    """Return flags, environment and notes for the machine's GPUs, or for its CPU."""
    if installed.cpu_build:
        return _for_cpu(checkpoint.config, checkpoint.weights.parameters)
    count, note = tensor_parallel(checkpoint.config, checkpoint.weights.bytes, find_accelerators())
    flags = ("--tensor-parallel-size", str(count)) if count > 1 else ()
    return flags, {}, (note,) if note else ()


def _for_cpu(config: ModelConfig, parameters: int) -> tuple[tuple[str, ...], dict[str, str], tuple[str, ...]]:
    """Return flags, environment and notes for a machine without GPU.

    float32 while it fits into half of the memory: CPUs without bfloat16 units compute it as fast, and there
    are no near-ties that change an answer; packed weights are computed in the 16 bits they were made for.
    Compiling is left out (it takes minutes), and the KV cache is given a size, because vLLM would ask for
    nearly all of the machine's memory.
    """
    wide = config.quantization is None and 4 * parameters <= _memory() / 2
    context = min(config.context_length, CPU_CONTEXT)
    token = 2 * config.layers * config.kv_heads * config.head_dim * (4 if wide else 2)
    cache = max(1, math.ceil(CPU_CONVERSATIONS * context * token / 2**30))
    dtype = "float32" if wide else "auto"
    flags = ("--dtype", dtype, "--enforce-eager", "--max-model-len", str(context))
    note = (
        f"no GPU: dtype {dtype}, {context} tokens of context, {cache} GiB of KV cache, nothing compiled; "
        "flags after `--` win"
    )
    environment = {} if "VLLM_CPU_KVCACHE_SPACE" in os.environ else {"VLLM_CPU_KVCACHE_SPACE": str(cache)}
    return flags, environment, (note,)


def require_installation() -> Installation:
    """Return the vLLM to use; raises `EngineMissing` when there is none."""
    found, named = _find()
    if found is not None:
        return found
    where = f"{named} names none" if named else "it is not on PATH"
    raise EngineMissing(f"vLLM is not installed: {where}.", hint=INSTALL)


def find_installation() -> Installation | None:
    """Return the vLLM to use, None when there is none; nothing is run to find out."""
    return _find()[0]


def _find() -> tuple[Installation | None, str | None]:
    """Return the vLLM to use, and in which words the user named it."""
    found, named = find_environment(PLACE, ("vllm", "vllm_cpu"))
    return None if found is None else _installation(found), named


def _installation(found: Environment) -> Installation:
    if found.python is None:
        return Installation((str(found.program), "serve"), str(found.program), None, False)
    cpu_build = "vllm_cpu" in found.versions or "cpu" in found.versions.get("vllm", "")
    version = found.versions.get("vllm_cpu") or found.versions["vllm"]
    if "vllm" in found.versions and found.program is not None:
        return Installation((str(found.program), "serve"), str(found.program), version, cpu_build)
    # `vllm serve` asks for the version of the distribution `vllm`, which the CPU build is not called
    python = str(found.python)
    return Installation((python, "-m", "vllm.entrypoints.openai.api_server"), python, version, cpu_build)


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
