"""LMDeploy: from a checkpoint directory to a running server.

LMDeploy lives in an environment of its own: PORTSIDE_LMDEPLOY or portside.toml names it (a virtual
environment, its python, or the `lmdeploy` program), otherwise it is looked for on PATH and where Portside
installs it. It is given a served view and always an explicit template: left to itself it guesses one from the
*path* of the model. Does not know what a view is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from chat_templates import DIALECTS, Stops, TemplateSource, facts_of, prove
from chat_templates.dialects.jinja import write_jinja
from checkpoint import Checkpoint
from deploy.artifacts import ViewArtifact
from deploy.engines.accelerators import Accelerators, find_accelerators, tensor_parallel
from deploy.engines.base import EngineFound, ServePlan, ServeRequest, log_path, startup_budget
from deploy.engines.environments import Place, find_environment
from deploy.engines.parsers import parser_flags
from deploy.engines.training import read_training
from errors import BadInput, EngineMissing, TemplateError, UsageError

__all__ = ["PLACE", "Installation", "Lmdeploy", "require_installation"]

INSTALL = "portside engines install lmdeploy, or name one with PORTSIDE_LMDEPLOY"
PLACE = Place("PORTSIDE_LMDEPLOY", "lmdeploy", "lmdeploy")
STARTUP_BASE = 300.0
"""Seconds beyond the loading of weights: imports, kernels that are tuned or compiled at the first start."""
TEMPLATE = "portside-template.json"
"""The chat-template JSON in a view, where it can say all that the model's template says."""
KEY = "PORTSIDE_LMDEPLOY_KEY"

_ENV = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
_CLEARED = ("PYTHONPATH", "LMDEPLOY_USE_MODELSCOPE", KEY)
_WITH_KEY = (
    "import os, sys; "
    f"sys.argv = ['lmdeploy', *sys.argv[1:], '--api-keys', os.environ.pop('{KEY}')]; "
    "from lmdeploy.cli.entrypoint import run; run()"
)
"""LMDeploy takes keys on its command line only, where `ps` would show them to everybody."""
_FORMATS = {"awq": "awq", "gptq": "gptq", "fp8": "fp8", "compressed-tensors": "compressed-tensors"}
"""quant_method in config.json -> --model-format."""


@dataclass(frozen=True)
class Installation:
    """An LMDeploy on this machine."""

    program: Path | None
    python: Path | None
    version: str | None

    @property
    def path(self) -> str:
        return str(self.program or self.python)

    def command(self, *, with_key: bool = False) -> tuple[str, ...]:
        """Return what begins the command line, before `serve api_server` or `lite`."""
        if with_key and self.python is None:
            raise UsageError(
                f"{self.path} takes API keys on its command line only, where everybody on this machine can "
                "read them.",
                hint="Name LMDeploy's virtual environment with PORTSIDE_LMDEPLOY, so that its python can be "
                "started with the key in the environment.",
            )
        if with_key:
            return str(self.python), "-c", _WITH_KEY
        return (str(self.program),) if self.program else (str(self.python), "-m", "lmdeploy")


IN_IMAGE = Installation(Path("lmdeploy"), Path("python3"), None)


class Lmdeploy:
    """The engine `lmdeploy`."""

    name = "lmdeploy"

    def detect(self) -> tuple[EngineFound, ...]:
        found, _ = _find()
        path, version = (None, None) if found is None else (found.path, found.version)
        return (EngineFound(self.name, "lmdeploy", path, version, INSTALL),)

    def plan(self, request: ServeRequest) -> ServePlan:
        """Decide everything. The plan's artifact is the served view (as is: none)."""
        if request.runtime is not None:
            raise UsageError("lmdeploy has one runtime only.", hint="Leave --runtime out.")
        if request.model.suffix == ".gguf":
            raise BadInput(
                f"LMDeploy serves checkpoint directories, and {request.model} is a GGUF file.",
                hint="Give the checkpoint, or use llamacpp.",
            )
        installed = IN_IMAGE if request.in_image else require_installation()
        training = read_training(request)
        checkpoint, source, stops = training.checkpoint, training.source, training.stops
        artifact, template = None, "hf"
        if source is not None and stops is not None and not request.as_is:
            artifact, template = _view(checkpoint, source, stops)
        served = artifact.path if artifact else checkpoint.path.absolute()
        port, name = request.concrete_port(), request.name or checkpoint.name
        machine, machine_notes = _for_machine(
            checkpoint, Accelerators("cuda", 1) if request.in_image else find_accelerators()
        )
        parsers, parser_note = parser_flags("lmdeploy", None if request.as_is else source, checkpoint)
        argv = [
            *installed.command(with_key=bool(request.api_key)),
            *("serve", "api_server", str(served)),
            *("--server-name", request.host or "0.0.0.0", "--server-port", str(port), "--model-name", name),
            *("--chat-template", str(served / TEMPLATE) if template == TEMPLATE else "hf"),
            *machine,
            *parsers,
            *request.engine_args,
        ]
        return ServePlan(
            engine=self.name,
            runtime="lmdeploy",
            name=name,
            host=request.host,
            port=port,
            argv=tuple(argv),
            env={**_ENV, **({KEY: request.api_key} if request.api_key else {})},
            cleared=_CLEARED,
            served=served,
            log=log_path(self.name, port),
            startup_seconds=request.startup_seconds or startup_budget(STARTUP_BASE, checkpoint.weights.bytes),
            artifact=artifact,
            source=source,
            checkpoint=checkpoint,
            api_key=request.api_key,
            allow_unhealthy=request.allow_unhealthy,
            notes=tuple(note for note in (*machine_notes, parser_note, _words(template)) if note),
        )


def _view(checkpoint: Checkpoint, source: TemplateSource, stops: Stops) -> tuple[ViewArtifact, str]:
    """Return the view and the template to name: the JSON where it is proven to say all, else `hf`."""
    proof = prove(source, checkpoint, dialects=("lmdeploy",)).dialects["lmdeploy"]
    complete = proof.text is not None and all(result.status != "refused" for result in proof.classes.values())
    if not complete or proof.text is None:
        return ViewArtifact(checkpoint, _without_bos(source, checkpoint), stops), "hf"
    return ViewArtifact(checkpoint, source, stops, ((TEMPLATE, proof.text),)), TEMPLATE


def _without_bos(source: TemplateSource, checkpoint: Checkpoint) -> TemplateSource:
    """Return `source` with a Jinja that leaves BOS out where LMDeploy's tokenizer adds it once more.

    LMDeploy encodes what the template renders with special tokens (0.18: `Tokenizer.encode`), unlike
    transformers and vLLM. Where BOS cannot be left out the source stays, and the `prompt` rung will tell.
    """
    facts = facts_of(source, checkpoint)
    if not (facts.adds_bos and facts.bos_token):
        return source
    if source.origin == "form" and source.form is not None:
        bare = replace(source.form, bos=source.form.bos.removeprefix(facts.bos_token))
        return replace(source, jinja=write_jinja(bare))
    text = "{%- set bos_token = '' -%}" + source.jinja
    messages = ({"role": "user", "content": "Hi"},)
    try:
        rendered = DIALECTS["jinja"].render(text, messages, facts)
    except TemplateError:
        return source
    same = facts.bos_token + rendered == source.render(messages)
    return replace(source, jinja=text) if same else source


def _words(template: str) -> str:
    if template == TEMPLATE:
        return "chat template: JSON, proven equal to training"
    return "chat template: the view's chat_template.jinja, which says more than LMDeploy's JSON can"


def _for_machine(checkpoint: Checkpoint, found: Accelerators) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the flags for this machine and this checkpoint's storage, and notes about them."""
    flags: list[str] = []
    notes: list[str] = []
    if found.kind == "ascend":
        flags += ["--device", "ascend", "--backend", "pytorch"]
    elif found.kind == "none":
        notes.append("no GPU was found, and LMDeploy has no engine for CPUs")
    count, note = tensor_parallel(checkpoint.config, checkpoint.weights.bytes, found)
    if count > 1:
        flags += ["--tp", str(count)]
    model_format = _FORMATS.get(checkpoint.config.quantization or "")
    if model_format:
        flags += ["--model-format", model_format]
    return tuple(flags), (*notes, *([note] if note else []))


def require_installation() -> Installation:
    """Return the LMDeploy to use; raises `EngineMissing` when there is none."""
    found, named = _find()
    if found is not None:
        return found
    where = f"{named} names none" if named else "it is not on PATH"
    raise EngineMissing(f"LMDeploy is not installed: {where}.", hint=INSTALL)


def _find() -> tuple[Installation | None, str | None]:
    """Return the LMDeploy to use, and in which words the user named it."""
    found, named = find_environment(PLACE, ("lmdeploy",))
    if found is None:
        return None, named
    return Installation(found.program, found.python, found.versions.get("lmdeploy")), named
