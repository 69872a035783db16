"""llama.cpp: from a checkpoint directory or a GGUF file to a running server.

Three runtimes: `embedded`, the server out of the xllamacpp wheel; `llama-server`, the program, with the same
flags; and `llama-cpp-python`, the server of that package, which has its own. The latter two are named by
PORTSIDE_LLAMA_SERVER and PORTSIDE_LLAMA_CPP_PYTHON or portside.toml, or found on PATH or where Portside
installs them. Does not know how a GGUF file is written.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from chat_templates import TemplateSource, load_source
from checkpoint import Checkpoint
from deploy.artifacts import GgufArtifact, TemplateArtifact
from deploy.cores import compute_threads
from deploy.engines import llama_cpp_python
from deploy.engines.base import EngineFound, ServePlan, ServeRequest, log_path, startup_budget
from deploy.engines.environments import Place, find_program, told_version
from deploy.engines.training import read_training
from errors import BadInput, EngineMissing, UsageError

__all__ = ["LlamaCpp"]

RUNTIMES = ("embedded", "llama-server", "llama-cpp-python")
SERVER = Place("PORTSIDE_LLAMA_SERVER", "llama-server", "llama_server")
STARTUP_BASE = 60.0
"""Seconds beyond the loading of weights: warming up, on a slow machine."""
DEFAULT_CONTEXT = 8192
"""Tokens, where the model was trained for more: the cache of 128k tokens would fill a small machine."""
EMBEDDED = Path(__file__).with_name("embedded.py")

IN_IMAGE = "/app/llama-server"

_CLEARED = ("LLAMA_ARG_*", "LLAMA_API_KEY")


@dataclass(frozen=True)
class _Model:
    """What is to be served, whether it was given as a checkpoint or as a GGUF file."""

    name: str
    served: Path
    bytes: int
    context: int
    """Tokens; 0: what the GGUF file says, as far as the memory reaches."""
    source: TemplateSource | None
    checkpoint: Checkpoint | None = None
    artifact: GgufArtifact | TemplateArtifact | None = None


class LlamaCpp:
    """The engine `llamacpp`."""

    name = "llamacpp"

    def detect(self) -> tuple[EngineFound, ...]:
        """Return all runtimes, the embedded one first."""
        server = _find_server()
        version = _embedded_version()
        python, _ = llama_cpp_python.find_installation()
        return (
            EngineFound(
                self.name,
                "embedded",
                None if version is None else sys.executable,
                None if version is None else f"xllamacpp {version}",
                "pip install xllamacpp",
            ),
            EngineFound(
                self.name,
                "llama-server",
                server,
                told_version(server),
                "install llama.cpp and put llama-server on PATH, or name it with PORTSIDE_LLAMA_SERVER",
            ),
            EngineFound(
                self.name,
                "llama-cpp-python",
                None if python is None else str(python.python),
                None if python is None else python.version,
                llama_cpp_python.INSTALL,
            ),
        )

    def plan(self, request: ServeRequest) -> ServePlan:
        """Decide everything. The GGUF file of a checkpoint directory is the plan's artifact."""
        runtime = "llama-server" if request.in_image else _runtime(request.runtime)
        port = request.concrete_port()
        model = _read_gguf_model(request) if request.model.suffix == ".gguf" else _read_checkpoint(request)
        name = request.name or model.name
        command, cleared, key, notes = _command(runtime, request, model, name, port)
        return ServePlan(
            engine=self.name,
            runtime=runtime,
            name=name,
            host=request.host,
            port=port,
            argv=(*command, *request.engine_args),
            env={key: request.api_key} if request.api_key else {},
            cleared=cleared,
            served=model.served,
            log=log_path(self.name, port),
            startup_seconds=request.startup_seconds or startup_budget(STARTUP_BASE, model.bytes),
            artifact=model.artifact,
            source=model.source,
            checkpoint=model.checkpoint,
            api_key=request.api_key,
            allow_unhealthy=request.allow_unhealthy,
            notes=notes,
        )


def _switches(source: TemplateSource | None) -> tuple[str, ...]:
    """Return what keeps llama.cpp from turning thinking on for a model that thinks only when asked to.

    It tells every template that thinking is on (`enable_thinking`) unless a request says otherwise.
    """
    thinking = source.form.thinking if source and source.form else None
    if thinking is None or thinking.on is None or thinking.off is not None:
        return ()
    return ("--chat-template-kwargs", '{"enable_thinking": false}')


def _read_checkpoint(request: ServeRequest) -> _Model:
    training = read_training(request)
    checkpoint = training.checkpoint
    source, stops = (None, None) if request.as_is else (training.source, training.stops)
    artifact = GgufArtifact(checkpoint, request.gguf_type, source, stops)
    return _Model(
        name=checkpoint.name,
        served=artifact.path,
        bytes=artifact.bytes,
        context=min(checkpoint.config.context_length, DEFAULT_CONTEXT),
        source=training.source,
        checkpoint=checkpoint,
        artifact=artifact,
    )


def _read_gguf_model(request: ServeRequest) -> _Model:
    path = _gguf_file(request.model)
    source = None if request.source == "checkpoint" else load_source(request.source, None)
    artifact = None if source is None or request.as_is else TemplateArtifact(source)
    return _Model(
        name=path.stem, served=path, bytes=path.stat().st_size, context=0, source=source, artifact=artifact
    )


def _runtime(wanted: str | None) -> str:
    """Return the runtime to use: the wanted one, else llama-server where it is, else the embedded one."""
    if wanted is None:
        wanted = "llama-server" if _find_server() else "embedded"
    if wanted not in RUNTIMES:
        raise UsageError(f"llamacpp has no runtime {wanted!r}.", hint=f"Runtimes: {', '.join(RUNTIMES)}.")
    if wanted == "llama-server" and _find_server() is None:
        named = find_program(SERVER)[1]
        raise EngineMissing(
            f"{named} names no llama-server." if named else "llama-server is not on PATH.",
            hint="Put it there, name it with PORTSIDE_LLAMA_SERVER, or use --runtime embedded.",
        )
    if wanted == "embedded" and _embedded_version() is None:
        raise EngineMissing("The embedded llama.cpp is not installed.", hint="pip install xllamacpp")
    return wanted


def _command(
    runtime: str, request: ServeRequest, model: _Model, name: str, port: int
) -> tuple[tuple[str, ...], tuple[str, ...], str, tuple[str, ...]]:
    """Return the command, what is cleared from the environment, the variable of the key, and notes."""
    served, host = model.served.absolute(), request.host or "0.0.0.0"
    threads = compute_threads()
    computing = f"threads: {threads}, one core is left to others"
    if request.in_image:  # the cores of this machine say nothing about the one that will run the image
        computing = "threads: llama.cpp's own default where it runs"
    if runtime == "llama-cpp-python":
        if isinstance(model.artifact, TemplateArtifact):
            raise UsageError(
                "llama-cpp-python's server takes no template but the one in the GGUF file.",
                hint="Use --runtime embedded, or serve the checkpoint: its GGUF file gets the template.",
            )
        python = str(llama_cpp_python.require().python)
        flags = llama_cpp_python.arguments(served, host, port, name, model.context, threads)
        notes = (computing, "this server punishes repetition (1.1) unless a request says `repeat_penalty`: 1")
        return (python, *flags), llama_cpp_python.CLEARED, "API_KEY", notes
    embedded = runtime == "embedded"
    template = model.artifact.path if isinstance(model.artifact, TemplateArtifact) else None
    server = IN_IMAGE if request.in_image else _find_server() or "llama-server"
    command = (
        *((sys.executable, "-P", str(EMBEDDED)) if embedded else (server,)),
        *("--model", str(served), "--host", host, "--port", str(port), "--alias", name),
        *("--ctx-size", str(model.context), "--parallel", "1"),
        *(("--chat-template-file", str(template.absolute())) if template else ()),
        *_switches(model.source),
        *(() if request.in_image else ("--threads", str(threads))),
        *(() if embedded else ("--jinja",)),
    )
    return command, _CLEARED, "LLAMA_API_KEY", (f"{computing}; `-- -t N` takes N",)


def _find_server() -> str | None:
    return find_program(SERVER)[0]


def _embedded_version() -> str | None:
    if importlib.util.find_spec("xllamacpp") is None:
        return None
    try:
        return importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _gguf_file(path: Path) -> Path:
    try:
        with path.open("rb") as stream:
            if stream.read(4) == b"GGUF":
                return path
    except OSError as error:
        raise BadInput(f"Cannot read {path}: {error.strerror}.") from error
    raise BadInput(
        f"{path} is not a GGUF file.", hint="Give a checkpoint directory or a file that begins with GGUF."
    )
