"""Manifests, made from the plan of `portside serve` as data and dumped: compose, Kubernetes, systemd, Ray."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deploy.engines.base import ServeRequest
from deploy.manifests.compose import compose_file
from deploy.manifests.deployment import CHECKPOINT, Deployment, Wishes, plan_deployment
from deploy.manifests.kubernetes import kubernetes_objects
from deploy.manifests.ray import IMAGE as RAY_IMAGE
from deploy.manifests.ray import ray_scripts, ray_service, require_vllm
from deploy.manifests.systemd import installed_systemd, systemd_unit
from files import write_text

__all__ = ["KINDS", "RAY_IMAGE", "Deployment", "Manifests", "Wishes", "plan_deployment", "render"]

DOCKERFILE = """\
# Portside itself, for the container that proves the answers:
#   docker build -f Dockerfile.portside -t {image} DIRECTORY-OF-PORTSIDE
FROM python:3.11-slim
COPY . /src
RUN pip install --no-cache-dir -c /src/requirements/portside.txt /src && rm -r /src
RUN useradd --uid 1000 portside
USER 1000
ENV HOME=/tmp
"""


@dataclass(frozen=True)
class Manifests:
    """What is written: files (path in the directory -> text), links (path -> target); and what comes next."""

    files: Mapping[str, str]
    steps: tuple[str, ...]
    links: Mapping[str, str] = field(default_factory=dict)

    def write(self, directory: Path) -> list[Path]:
        """Write everything below `directory` and return the paths. Raises `OutputError`."""
        paths = []
        for name, text in self.files.items():
            write_text(directory / name, text)
            paths.append(directory / name)
            if name.endswith(".sh"):
                (directory / name).chmod(0o755)
        for name, target in self.links.items():
            place = directory / name
            place.unlink(missing_ok=True)
            place.symlink_to(target)
        return paths


def render(
    kind: str, deployment: Deployment, request: ServeRequest, *, systemd: int | None = None
) -> Manifests:
    """Return the manifests of `kind`; `systemd` is its version, by default this machine's."""
    if kind == "systemd":
        unit = systemd_unit(deployment, request, installed_systemd() if systemd is None else systemd)
        return Manifests({f"{deployment.name}.service": unit}, _systemd_steps(deployment))
    return KINDS[kind](deployment)


def _compose(deployment: Deployment) -> Manifests:
    view = {}
    if deployment.from_view:
        view = {f"view/{name}": text for name, text in deployment.files.items() if name != "training.jinja"}
    files = {
        "compose.yaml": _dump([compose_file(deployment)]),
        **{f"files/{name}": text for name, text in deployment.files.items()},
        **view,
        "Dockerfile.portside": DOCKERFILE.format(image=deployment.wishes.portside_image),
    }
    links = {f"view/{name}": f"{CHECKPOINT}/{name}" for name in deployment.links}
    key = ['echo "PORTSIDE_API_KEY=$(openssl rand -hex 32)" > .env'] if deployment.key else []
    steps = (*_weights(deployment, "model"), _build(deployment), *key, "docker compose up --wait")
    return Manifests(files, steps, links)


def _kubernetes(deployment: Deployment) -> Manifests:
    kind = "leaderworkerset" if deployment.parallel.pipeline > 1 else "deployment"
    return Manifests(
        {
            "kubernetes.yaml": _dump(kubernetes_objects(deployment)),
            "Dockerfile.portside": DOCKERFILE.format(image=deployment.wishes.portside_image),
        },
        (
            *_weights(deployment, "VOLUME"),
            _build(deployment),
            *_secret(deployment),
            "kubectl apply -f kubernetes.yaml",
            f"kubectl rollout status {kind}/{deployment.name}"
            if kind == "deployment"
            else f"kubectl wait --for=condition=Available {kind}/{deployment.name} --timeout="
            f"{deployment.startup_seconds + 600}s",
        ),
    )


def _ray(deployment: Deployment) -> Manifests:
    require_vllm(deployment)
    files = {"rayservice.yaml": _dump(ray_service(deployment)), **ray_scripts(deployment)}
    url = f"http://{deployment.name}-serve-svc:8000"
    return Manifests(
        files,
        (
            "kubectl apply -f rayservice.yaml   (KubeRay), or ray-head.sh and ray-worker.sh by hand",
            f"portside health {url} --checkpoint {shlex.quote(deployment.checkpoint_path)}",
        ),
    )


def _systemd_steps(deployment: Deployment) -> tuple[str, ...]:
    unit, key = f"{deployment.name}.service", f"/etc/portside/{deployment.name}.key"
    make = [f"sudo sh -c 'umask 077; mkdir -p /etc/portside; openssl rand -hex 32 > {key}'"]
    return (
        *(make if deployment.key else ()),
        f"sudo cp {unit} /etc/systemd/system/ && sudo systemctl daemon-reload",
        f"sudo systemctl enable --now {unit}   (returns once the answers are proven)",
    )


def _weights(deployment: Deployment, place: str) -> tuple[str, ...]:
    """Return how the weights get to where they are mounted from; a path that exists needs nothing."""
    checkpoint = shlex.quote(deployment.checkpoint_path)
    if deployment.from_view:
        return () if place == "model" else (f"copy {checkpoint} to the volume",)
    source = deployment.plan.source
    template = (
        "" if source is None or source.spec == "checkpoint" else f" --template {shlex.quote(source.spec)}"
    )
    kind = deployment.plan.served.stem.rpartition("-")[2].lower()
    return (f"portside gguf {checkpoint} --type {kind}{template} -o {place}",)


def _build(deployment: Deployment) -> str:
    image = deployment.wishes.portside_image
    return f"docker build -f Dockerfile.portside -t {image} DIRECTORY-OF-PORTSIDE"


def _secret(deployment: Deployment) -> tuple[str, ...]:
    if deployment.key is None:
        return ()
    name = f"{deployment.name}-key"
    return (f"kubectl create secret generic {name} --from-literal=api-key=$(openssl rand -hex 32)",)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _dump(objects: list[dict[str, Any]]) -> str:
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


KINDS: dict[str, Callable[[Deployment], Manifests]] = {
    "compose": _compose,
    "kubernetes": _kubernetes,
    "ray": _ray,
    "systemd": lambda deployment: Manifests({}, ()),
}
