"""One engine in a container, decided: what every kind of manifest is made from.

Made from the plan of `portside serve`, its paths put where the container has them:

    /checkpoint   the checkpoint, read-only        /portside   what was written for it: the files of the view,
    /model        what the engine loads                        training.jinja, Modelfile

Does not know YAML, nor who runs containers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from chat_templates import TemplateSource
from chat_templates.served_view import view_files, view_links
from deploy.artifacts import GgufArtifact, ViewArtifact
from deploy.engines import plan_serving
from deploy.engines.base import ServePlan, ServeRequest
from deploy.engines.lmdeploy import KEY as LMDEPLOY_KEY
from deploy.engines.ollama_model import CreateModel
from deploy.parallel import Cluster, Parallel, choose_parallel
from errors import BadInput, UsageError
from modelfiles import write as write_modelfile

__all__ = ["DRAIN", "IMAGES", "PRE_STOP", "Deployment", "Wishes", "plan_deployment"]

IMAGES = {
    "vllm": "vllm/vllm-openai:v0.32.0",
    "lmdeploy": "openmmlab/lmdeploy:v0.18.0-cu12",
    "ollama": "ollama/ollama:latest",
    "llamacpp": "ghcr.io/ggml-org/llama.cpp:server",
}
LLAMACPP_CUDA = "ghcr.io/ggml-org/llama.cpp:server-cuda"
PORTS = {"ollama": 11434}
PORT = 8000
MODEL, CHECKPOINT, WRITTEN = "/model", "/checkpoint", "/portside"
PRE_STOP = 15
"""Seconds between leaving the list of endpoints and SIGTERM: routers take a while to notice."""
DRAIN = 120
"""Seconds that answers under way get to end."""
CONFIG_MAP_LIMIT = 1 << 20
"""Bytes; Kubernetes keeps no larger ConfigMap."""
SMALL_CONTEXT = 8192

_KEYS = {"vllm": "VLLM_API_KEY", "lmdeploy": LMDEPLOY_KEY, "llamacpp": "LLAMA_API_KEY"}
_FETCH = "import urllib.request as u; u.urlopen('http://127.0.0.1:{port}{path}', timeout=10)"


@dataclass(frozen=True)
class Wishes:
    """What the user asked for besides the model; the names are those of `portside deploy`'s options."""

    nodes: int = 1
    gpus_per_node: int = 1
    gpu_memory: int | None = None
    context: int | None = None
    image: str | None = None
    portside_image: str = "portside:latest"
    router_image: str = "vllm/vllm-router:v0.1.17"
    model_path: str | None = None
    with_webui: bool = False


@dataclass(frozen=True)
class Deployment:
    """One engine in a container. `env` holds no secret; `key` names the variable that the key goes into."""

    plan: ServePlan
    wishes: Wishes
    image: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    key: str | None
    files: Mapping[str, str]
    """For /portside: name -> text."""
    links: tuple[str, ...]
    """Files of the checkpoint that a view links to; empty: the engine loads a GGUF file."""
    parallel: Parallel
    weights: int
    """Bytes of what is loaded."""

    @property
    def name(self) -> str:
        """A name for services: lower case letters, digits and hyphens."""
        kept = "".join(c if c.isalnum() and c.isascii() else "-" for c in self.plan.name.lower())
        return kept.strip("-")[:40].strip("-") or "model"

    @property
    def port(self) -> int:
        return self.plan.port

    @property
    def gpus(self) -> int:
        """In each container."""
        return self.parallel.tensor if self.wishes.gpus_per_node else 0

    @property
    def from_view(self) -> bool:
        return bool(self.links)

    @property
    def checkpoint_path(self) -> str:
        """The checkpoint's directory on this machine."""
        assert self.plan.checkpoint is not None
        return str(self.plan.checkpoint.path.absolute())

    @property
    def health_path(self) -> str:
        return "/api/version" if self.plan.engine == "ollama" else "/health"

    @property
    def health_command(self) -> list[str]:
        """What tells inside the engine's own image that it answers."""
        if self.plan.engine == "ollama":
            return ["ollama", "list"]
        if self.plan.engine == "llamacpp":
            return ["curl", "--fail", "--silent", "--max-time", "10", f"http://127.0.0.1:{self.port}/health"]
        return ["python3", "-c", _FETCH.format(port=self.port, path="/health")]

    def proof_command(self, url: str) -> str:
        """Return the shell line of the container that proves the answers once, and then waits."""
        checkpoint = f" --checkpoint {MODEL}" if self.from_view else ""
        return (
            f"portside health {url}{checkpoint} --template {WRITTEN}/training.jinja "
            f"--wait {self.startup_seconds} && touch /tmp/proven && exec sleep infinity"
        )

    @property
    def startup_seconds(self) -> int:
        """Seconds that the engine gets to come up, rounded up to whole tens."""
        return -int(-self.plan.startup_seconds // 10) * 10


def plan_deployment(request: ServeRequest, wishes: Wishes) -> Deployment:
    """Return the deployment. Raises what planning a serving and choosing the parallel sizes raise."""
    if request.model.suffix == ".gguf":
        raise BadInput(
            f"{request.model} is a GGUF file; what is deployed is proven against its checkpoint.",
            hint="Give the checkpoint directory.",
        )
    port = request.port or PORTS.get(request.engine, PORT)
    key = "secret" if request.engine in _KEYS else None  # never shown: only where it goes is taken from it
    plan = plan_serving(replace(request, in_image=True, host="0.0.0.0", port=port, api_key=key))
    assert plan.checkpoint is not None
    weights = _bytes(plan)
    context = wishes.context or min(plan.checkpoint.config.context_length, _context(request.engine))
    cluster = Cluster(wishes.nodes, wishes.gpus_per_node, wishes.gpu_memory)
    parallel = choose_parallel(plan.checkpoint.config, weights, cluster, context)
    _refuse(request.engine, parallel)
    files = _files(plan)
    return Deployment(
        plan=plan,
        wishes=wishes,
        image=wishes.image or _image(request.engine, wishes),
        command=(*_command(plan), *_flags(request.engine, parallel, wishes)),
        env={name: value for name, value in _env(plan).items() if name != _KEYS.get(request.engine)},
        key=_KEYS.get(request.engine),
        files=files,
        links=tuple(view_links(plan.checkpoint, files)) if isinstance(plan.artifact, ViewArtifact) else (),
        parallel=parallel,
        weights=weights,
    )


def _bytes(plan: ServePlan) -> int:
    assert plan.checkpoint is not None
    return plan.artifact.bytes if isinstance(plan.artifact, GgufArtifact) else plan.checkpoint.weights.bytes


def _context(engine: str) -> int:
    return SMALL_CONTEXT if engine in ("llamacpp", "ollama") else 1 << 31


def _image(engine: str, wishes: Wishes) -> str:
    return LLAMACPP_CUDA if engine == "llamacpp" and wishes.gpus_per_node else IMAGES[engine]


def _refuse(engine: str, parallel: Parallel) -> None:
    if parallel.pipeline > 1 and engine != "vllm":
        raise UsageError(
            f"No single machine holds the model, and {engine} is deployed on one machine only.",
            hint="Use vllm, machines with more memory, or a quantized model.",
        )


def _command(plan: ServePlan) -> tuple[str, ...]:
    """Return the plan's command with the container's paths; Ollama's also creates the model."""
    served, place = str(plan.served.absolute()), MODEL
    if isinstance(plan.artifact, GgufArtifact):
        place = f"{MODEL}/{plan.served.name}"
    words = tuple(
        place + word[len(served) :] if word == served or word.startswith(f"{served}/") else word
        for word in plan.argv
    )
    if plan.engine != "ollama":
        return words
    return (
        "sh",
        "-c",
        "ollama serve & server=$!; trap 'kill -TERM $server' TERM INT; "
        "until ollama list >/dev/null 2>&1; do kill -0 $server || exit 1; sleep 1; done; "
        f"ollama create {plan.name} -f {WRITTEN}/Modelfile || exit 1; wait $server; wait $server",
    )


def _flags(engine: str, parallel: Parallel, wishes: Wishes) -> tuple[str, ...]:
    flags: list[str] = []
    if engine == "vllm":
        flags += ["--shutdown-timeout", str(DRAIN)]
        if wishes.context:
            flags += ["--max-model-len", str(wishes.context)]
    if parallel.tensor > 1 and engine in ("vllm", "lmdeploy"):
        flags += ["--tensor-parallel-size" if engine == "vllm" else "--tp", str(parallel.tensor)]
    if parallel.pipeline > 1:
        flags += ["--pipeline-parallel-size", str(parallel.pipeline)]
    return tuple(flags)


def _env(plan: ServePlan) -> dict[str, str]:
    home = {"HOME": "/cache", "XDG_CACHE_HOME": "/cache", "USER": "portside", "LOGNAME": "portside"}
    models = {"OLLAMA_MODELS": "/cache/models"} if plan.engine == "ollama" else {}
    return {**plan.env, **home, **models}  # a user without a name makes torch's getuser() fail


def _files(plan: ServePlan) -> dict[str, str]:
    """Return what is written for the container; a ConfigMap holds all of it."""
    files: dict[str, str] = {}
    if isinstance(plan.artifact, ViewArtifact):
        view = plan.artifact
        files |= {**view_files(view.checkpoint, view.source, view.stops), **dict(view.extras)}
    for step in plan.steps:
        if isinstance(step, CreateModel):
            files["Modelfile"] = write_modelfile(replace(step.modelfile, from_=f"{MODEL}/{plan.served.name}"))
    if plan.source is not None:
        files["training.jinja"] = _alone(plan.source)
    if sum(len(text.encode()) for text in files.values()) > CONFIG_MAP_LIMIT:
        raise BadInput(
            f"The small files of {plan.name} are larger than a ConfigMap may be (1 MiB).",
            hint="Put a served view on the volume instead; `portside build` writes its files.",
        )
    return files


def _alone(source: TemplateSource) -> str:
    """Return the training template as a Jinja that needs no tokenizer beside it."""
    tokens = {"bos_token": source.bos_token, "eos_token": source.eos_token, **source.other_tokens}
    sets = [f"{{%- set {name} = {json.dumps(text)} -%}}" for name, text in tokens.items() if text]
    return "".join(text for text in sets if text.split()[2] in source.jinja) + source.jinja


def model_directory(deployment: Deployment, default: str) -> str:
    """Return where the weights lie for whoever runs the container."""
    return deployment.wishes.model_path or (
        deployment.checkpoint_path if deployment.from_view else str(Path(default) / "model")
    )
