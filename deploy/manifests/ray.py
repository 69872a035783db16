"""Ray: a RayService for Kubernetes, and the commands that join machines by hand. vLLM only.

Does not know what the containers run: `deployment` does.
"""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from deploy.manifests.deployment import MODEL, Deployment
from deploy.manifests.kubernetes import config_map, pod_for
from errors import UsageError

__all__ = ["IMAGE", "ray_scripts", "ray_service"]

IMAGE = "rayproject/ray-llm:2.60.0-py311-cu128"
PORT = 6379
SERVE_PORT = 8000
_OUTSIDE = {"--host", "--port", "--served-model-name", "--chat-template", "--shutdown-timeout"}
"""Flags of vLLM's own server, which Ray Serve stands in for; the view carries the chat template."""


def require_vllm(deployment: Deployment) -> None:
    """Raise `UsageError` for another engine."""
    if deployment.plan.engine != "vllm":
        raise UsageError(
            f"Ray distributes vLLM, and {deployment.plan.engine} is none.",
            hint="Use --engine vllm, or `portside deploy kubernetes`, which needs no Ray for replicas.",
        )


def ray_service(deployment: Deployment) -> list[dict[str, Any]]:
    """Return a ConfigMap and a RayService, which keeps as many replicas as the cluster has room for."""
    name, gpus = deployment.name, deployment.gpus
    head = _ray_pod(deployment, gpus=0)
    worker = _ray_pod(deployment, gpus=gpus)
    nodes = deployment.parallel.pipeline * deployment.parallel.data
    service = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": name},
        "spec": {
            "serveConfigV2": yaml.safe_dump(serve_config(deployment), sort_keys=False),
            "rayClusterConfig": {
                "headGroupSpec": {
                    "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},
                    "template": {"spec": head},
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "gpus",
                        "replicas": nodes,
                        "minReplicas": nodes,
                        "maxReplicas": nodes,
                        "rayStartParams": {},
                        "template": {"spec": worker},
                    }
                ],
            },
        },
    }
    return [config_map(deployment), service]


def serve_config(deployment: Deployment) -> dict[str, Any]:
    """Return what Ray Serve is told (its ServeDeploySchema)."""
    llm = {
        "model_loading_config": {"model_id": deployment.plan.name, "model_source": MODEL},
        "deployment_config": {"num_replicas": deployment.parallel.data},
        "engine_kwargs": engine_kwargs(deployment),
    }
    application = {
        "name": deployment.name,
        "route_prefix": "/",
        "import_path": "ray.serve.llm:build_openai_app",
        "args": {"llm_configs": [llm]},
    }
    return {"applications": [application]}


def engine_kwargs(deployment: Deployment) -> dict[str, Any]:
    """Return the plan's flags of vLLM as keyword arguments of its engine."""
    words = deployment.command[deployment.command.index(MODEL) + 1 :]
    kwargs: dict[str, Any] = {}
    for flag, value in zip(words, [*words[1:], "--"], strict=True):
        if flag.startswith("--") and flag not in _OUTSIDE:
            kwargs[flag[2:].replace("-", "_")] = True if value.startswith("--") else _typed(value)
    return kwargs


def ray_scripts(deployment: Deployment) -> dict[str, str]:
    """Return the scripts for machines that are joined by hand: the first one serves, the others join."""
    nodes = deployment.parallel.pipeline
    words = [*deployment.command]
    if nodes > 1 or deployment.parallel.tensor > 1:
        words += ["--distributed-executor-backend", "ray"]
    wait = (
        f"until [ \"$(ray status 2>/dev/null | grep -c ' 1 node_')\" -ge {nodes} ]; do sleep 2; done\n"
        if nodes > 1
        else ""
    )
    head = (
        "#!/bin/sh\n# On the first machine; VLLM_API_KEY holds the key.\nset -eu\n"
        f"ray start --head --port={PORT} --num-gpus={deployment.gpus}\n{wait}exec {shlex.join(words)}\n"
    )
    worker = (
        "#!/bin/sh\n# On every other machine: ray-worker.sh ADDRESS-OF-THE-FIRST\nset -eu\n"
        f'exec ray start --block --address="$1:{PORT}" --num-gpus={deployment.gpus}\n'
    )
    return {"ray-head.sh": head, "ray-worker.sh": worker}


def _ray_pod(deployment: Deployment, *, gpus: int) -> dict[str, Any]:
    """Ray's operator writes command and probes itself."""
    pod = pod_for(deployment, (), proof=False)
    engine = pod["containers"][0]
    for field in ("command", "startupProbe", "livenessProbe", "readinessProbe", "lifecycle"):
        engine.pop(field)
    engine["name"] = "ray-worker" if gpus else "ray-head"
    engine["ports"] = [] if gpus else [{"name": "serve", "containerPort": SERVE_PORT}]
    if not gpus:
        engine["resources"] = {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "8Gi"}}
        pod.pop("tolerations", None)
    return pod


def _typed(value: str) -> Any:
    return int(value) if value.isdigit() else value
