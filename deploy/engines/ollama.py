"""Ollama: from a checkpoint directory to a model in a running server, which is started if there is none.

The GGUF file is made as for llama.cpp; the model is created through REST, so that `ollama run NAME` works
afterwards. The address is OLLAMA_HOST's unless one is asked for; the program is named by PORTSIDE_OLLAMA or
portside.toml, or found on PATH or where Portside installs it. Does not know how a model is created.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from chat_templates import prove
from deploy import ports
from deploy.artifacts import GgufArtifact
from deploy.client import Client
from deploy.engines.base import (
    DEFAULT_HOST,
    EngineFound,
    ServePlan,
    ServeRequest,
    log_path,
    startup_budget,
)
from deploy.engines.environments import Place, find_program, told_version
from deploy.engines.ollama_model import CreateModel, LoadModel
from deploy.engines.training import Training, read_training
from errors import BadInput, EngineMissing, UsageError
from modelfiles import Modelfile, modelfile_for

__all__ = ["Ollama"]

INSTALL = "portside engines install ollama, or name one with PORTSIDE_OLLAMA"
PLACE = Place("PORTSIDE_OLLAMA", "ollama", "ollama")
PORT = 11434
STARTUP_BASE = 120.0
"""Seconds beyond the loading of weights: looking for GPUs, starting a runner."""

_CLEARED = ("OLLAMA_HOST", "OLLAMA_KEEP_ALIVE")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})?")


class Ollama:
    """The engine `ollama`."""

    name = "ollama"

    def detect(self) -> tuple[EngineFound, ...]:
        program = find_program(PLACE)[0]
        return (EngineFound(self.name, "ollama", program, told_version(program), INSTALL),)

    def plan(self, request: ServeRequest) -> ServePlan:
        """Decide everything. The GGUF file is the plan's artifact, creating and loading are its steps."""
        _refuse(request)
        training = read_training(request)
        checkpoint, source, stops = training.checkpoint, training.source, training.stops
        artifact = GgufArtifact(
            checkpoint, request.gguf_type, *((None, None) if request.as_is else (source, stops))
        )
        host, port = _address(request)
        name = _model_name(request.name or checkpoint.name)
        seconds = request.startup_seconds or startup_budget(STARTUP_BASE, artifact.bytes)
        jinja = None if source is None else source.gguf_jinja
        modelfile = _modelfile(training, artifact.path, as_is=request.as_is)
        argv = _command(request, host, port)
        return ServePlan(
            engine=self.name,
            runtime="ollama",
            name=name,
            host=host,
            port=port,
            argv=argv,
            env={"OLLAMA_HOST": _host_and_port(host, port), "OLLAMA_KEEP_ALIVE": "-1"} if argv else {},
            cleared=_CLEARED,
            served=artifact.path,
            log=log_path(self.name, port),
            startup_seconds=seconds,
            artifact=artifact,
            source=source,
            checkpoint=checkpoint,
            allow_unhealthy=request.allow_unhealthy,
            steps=(CreateModel(name, artifact.path, modelfile, jinja), LoadModel(name, seconds)),
        )


def _refuse(request: ServeRequest) -> None:
    """Raise for what Ollama cannot do."""
    if request.runtime is not None:
        raise UsageError("ollama has one runtime only.", hint="Leave --runtime out.")
    if request.api_key:
        raise UsageError(
            "Ollama knows no API keys: everybody who reaches it may use it.",
            hint="Leave the key out (--api-key, PORTSIDE_API_KEY), or use llamacpp, vllm or lmdeploy.",
        )
    if request.model.suffix == ".gguf":
        raise BadInput(
            f"{request.model} is a GGUF file; the Ollama template is proven against a checkpoint.",
            hint="Give the checkpoint directory, or serve the file with llamacpp.",
        )


def _modelfile(training: Training, gguf: Path, *, as_is: bool) -> Modelfile:
    """Return what the model is created with; as it is: what `ollama create` makes of FROM alone."""
    if as_is or training.source is None or training.stops is None:
        return Modelfile(f"./{gguf.name}")
    checkpoint, source, stops = training.checkpoint, training.source, training.stops
    proof = prove(source, checkpoint, ("ollama",))
    return modelfile_for(checkpoint, source, stops, proof, gguf, for_rest=True)


def _command(request: ServeRequest, host: str, port: int) -> tuple[str, ...]:
    """Return how the server is started, nothing when one answers already."""
    if request.in_image:
        return ("ollama", "serve", *request.engine_args)
    if request.port != 0 and _answers(host, port):
        if request.engine_args:
            raise UsageError(
                f"An Ollama server runs at {ports.url_of(host, port)}: it takes no arguments any more.",
                hint="Choose another --port to start one, or leave them out.",
            )
        return ()
    program, named = find_program(PLACE)
    if program is None:
        where = f"{named} names no program" if named else "ollama is not on PATH"
        raise EngineMissing(
            f"No Ollama answers at {ports.url_of(host, port)}, and none can be started: {where}.",
            hint=INSTALL,
        )
    return (program, "serve", *request.engine_args)


def _answers(host: str, port: int) -> bool:
    if not ports.is_open(host, port):
        return False
    with Client(ports.url_of(host, port)) as client:
        found = client.get("/api/version", timeout=5.0).json
    return isinstance(found, dict) and "version" in found


def _address(request: ServeRequest) -> tuple[str, int]:
    """Return host and port: those asked for, else OLLAMA_HOST's, else Ollama's own."""
    if request.port is not None:
        return request.host, request.concrete_port()
    host, port = _ollama_host(os.environ.get("OLLAMA_HOST", ""))
    return (host if request.host == DEFAULT_HOST else request.host), port


def _ollama_host(text: str) -> tuple[str, int]:
    """Read OLLAMA_HOST (`HOST`, `:PORT`, `HOST:PORT`, with or without http://). Raises `UsageError`."""
    text = text.strip().strip("\"'")
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        host, port = url.hostname, url.port
    except ValueError as error:
        raise UsageError(f"OLLAMA_HOST={text} is no address: {error}.") from error
    if url.scheme != "http":
        raise UsageError(
            f"OLLAMA_HOST={text} is reached through {url.scheme}.",
            hint="Portside speaks http with Ollama; --host and --port name another server.",
        )
    return host or DEFAULT_HOST, port or (80 if "://" in text else PORT)


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host or '0.0.0.0'}:{port}"


def _model_name(name: str) -> str:
    if _NAME.fullmatch(name):
        return name
    raise UsageError(
        f"Ollama takes no model name like {name!r}.",
        hint="Give one of letters, digits, '.', '-' and '_' with --name, a tag after ':'.",
    )
