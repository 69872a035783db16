"""Kubernetes: a ConfigMap, a Deployment (a LeaderWorkerSet over several machines), Services, a router.

A Pod becomes ready when the container `proof` has proven, once, that the engine answers as the model was
trained; a busy engine is never asked again. Does not know what the containers run: `deployment` does.
"""

from __future__ import annotations

import math
from typing import Any

from deploy.manifests import webui
from deploy.manifests.deployment import (
    CHECKPOINT,
    DRAIN,
    MODEL,
    PRE_STOP,
    WRITTEN,
    Deployment,
)

__all__ = ["config_map", "kubernetes_objects", "pod_for"]

Object = dict[str, Any]

ROUTER_PORT = 8080
GIB = 1 << 30
_USER = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "fsGroup": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_HARDENED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def kubernetes_objects(deployment: Deployment) -> list[Object]:
    """Return the objects in the order in which they are applied."""
    name = deployment.name
    objects: list[Object] = [config_map(deployment)]
    if deployment.parallel.pipeline > 1:
        objects.append(_leader_worker_set(deployment))
    else:
        objects.append(_workload(name, deployment.parallel.data, pod_for(deployment, deployment.command)))
    objects.append(_service(name, name, deployment.port, headless=deployment.parallel.data > 1))
    front, port = name, deployment.port
    if deployment.parallel.data > 1:
        front, port = f"{name}-router", ROUTER_PORT
        objects += _router(deployment, front)
    if deployment.wishes.with_webui:
        objects += _webui(deployment, f"http://{front}:{port}/v1")
    return objects


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "portside"}


def config_map(deployment: Deployment) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{deployment.name}-files", "labels": _labels(deployment.name)},
        "data": dict(deployment.files),
    }


def _workload(name: str, replicas: int, pod: Object) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": _labels(name)},
        "spec": {
            "replicas": replicas,
            # a GPU that the old Pod holds is not there for a new one
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "progressDeadlineSeconds": _deadline(pod),
            "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
            "template": {"metadata": {"labels": _labels(name)}, "spec": pod},
        },
    }


def _deadline(pod: Object) -> int:
    probe = pod["containers"][0].get("startupProbe", {"periodSeconds": 10, "failureThreshold": 60})
    return int(probe["periodSeconds"] * probe["failureThreshold"] + 600)


def _leader_worker_set(deployment: Deployment) -> Object:
    """One group of Pods for each replica: the leader serves, the others compute their layers for it."""
    name, size = deployment.name, deployment.parallel.pipeline
    group = ("--nnodes", str(size), "--master-addr", "$(LWS_LEADER_ADDRESS)", "--node-rank")
    leader = (*deployment.command, *group, "0")
    follower = (*deployment.command, *group, "$(LWS_WORKER_INDEX)", "--headless")
    worker = pod_for(deployment, follower, proof=False)
    engine = worker["containers"][0]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle", "ports"):
        engine.pop(probe)
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name, "labels": _labels(name)},
        "spec": {
            "replicas": deployment.parallel.data,
            "leaderWorkerTemplate": {
                "size": size,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": {
                    "metadata": {"labels": _labels(name)},
                    "spec": pod_for(deployment, leader),
                },
                "workerTemplate": {"metadata": {"labels": _labels(f"{name}-worker")}, "spec": worker},
            },
        },
    }


def pod_for(deployment: Deployment, command: tuple[str, ...], *, proof: bool = True) -> Object:
    pod: Object = {
        "enableServiceLinks": False,  # a Service called `vllm` would set VLLM_PORT=tcp://…
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": PRE_STOP + DRAIN + 30,
        "securityContext": _USER,
        "containers": [_engine(deployment, command), *([_proof(deployment)] if proof else [])],
        "volumes": _volumes(deployment),
    }
    if deployment.from_view:
        pod["initContainers"] = [_view(deployment)]
    if deployment.gpus:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def _engine(deployment: Deployment, command: tuple[str, ...]) -> Object:
    get = {"httpGet": {"path": deployment.health_path, "port": "http"}}
    env = [{"name": name, "value": value} for name, value in deployment.env.items()]
    return {
        "name": "engine",
        "image": deployment.image,
        "command": list(command),
        "env": [*env, *_key(deployment, deployment.key)],
        "ports": [{"name": "http", "containerPort": deployment.port}],
        "startupProbe": {**get, "periodSeconds": 10, "failureThreshold": deployment.startup_seconds // 10},
        # a busy engine answers late; one that is dead does not answer for minutes
        "livenessProbe": {**get, "periodSeconds": 30, "timeoutSeconds": 30, "failureThreshold": 6},
        "readinessProbe": {**get, "periodSeconds": 5, "timeoutSeconds": 10, "failureThreshold": 3},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(PRE_STOP)]}}},
        "resources": _resources(deployment),
        "securityContext": _HARDENED,
        "volumeMounts": [
            *_mounts(deployment),
            {"name": "cache", "mountPath": "/cache"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }


def _resources(deployment: Deployment) -> Object:
    if not deployment.gpus:
        memory = f"{math.ceil(1.3 * deployment.weights / GIB) + 2}Gi"
        return {"requests": {"cpu": "2", "memory": memory}, "limits": {"memory": memory}}
    gpus = {"nvidia.com/gpu": str(deployment.gpus)}
    return {"requests": {"cpu": str(2 * deployment.gpus), "memory": "16Gi", **gpus}, "limits": gpus}


def _key(deployment: Deployment, variable: str | None) -> list[Object]:
    """Return the variable that the key of the Secret goes into."""
    if variable is None:
        return []
    secret = {"name": f"{deployment.name}-key", "key": "api-key"}
    return [{"name": variable, "valueFrom": {"secretKeyRef": secret}}]


def _mounts(deployment: Deployment) -> list[Object]:
    place = CHECKPOINT if deployment.from_view else MODEL
    mounts = [{"name": "weights", "mountPath": place, "readOnly": True}]
    if deployment.from_view:
        mounts.append({"name": "view", "mountPath": MODEL, "readOnly": True})
    return [*mounts, {"name": "files", "mountPath": WRITTEN, "readOnly": True}]


def _volumes(deployment: Deployment) -> list[Object]:
    where = deployment.wishes.model_path or f"pvc:{deployment.name}-model"
    source: Object = (
        {"persistentVolumeClaim": {"claimName": where.removeprefix("pvc:"), "readOnly": True}}
        if where.startswith("pvc:")
        else {"hostPath": {"path": where, "type": "Directory"}}
    )
    view = [{"name": "view", "emptyDir": {"sizeLimit": "64Mi"}}] if deployment.from_view else []
    return [
        {"name": "weights", **source},
        *view,
        {"name": "files", "configMap": {"name": f"{deployment.name}-files"}},
        {"name": "cache", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{max(2, 2 * deployment.gpus)}Gi"}},
    ]


def _view(deployment: Deployment) -> Object:
    """The served view: links to the checkpoint's files, and the corrected ones in their place."""
    own = " ".join(f"{WRITTEN}/{name}" for name in deployment.files)
    links = " ".join(f"'{CHECKPOINT}/{name}'" for name in deployment.links)
    return {
        "name": "view",
        "image": deployment.image,
        "command": ["sh", "-ec", f"ln -sf {links} {MODEL}/; cp -L {own} {MODEL}/"],
        "securityContext": _HARDENED,
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [
            {"name": "weights", "mountPath": CHECKPOINT, "readOnly": True},
            {"name": "files", "mountPath": WRITTEN, "readOnly": True},
            {"name": "view", "mountPath": MODEL},
        ],
    }


def _proof(deployment: Deployment) -> Object:
    return {
        "name": "proof",
        "image": deployment.wishes.portside_image,
        "command": ["sh", "-c", deployment.proof_command(f"http://127.0.0.1:{deployment.port}")],
        "env": [{"name": "HOME", "value": "/tmp"}, *_key(deployment, deployment.key and "PORTSIDE_API_KEY")],
        "readinessProbe": {"exec": {"command": ["test", "-f", "/tmp/proven"]}, "periodSeconds": 5},
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": _HARDENED,
        "volumeMounts": _mounts(deployment),
    }


def _service(name: str, app: str, port: int, *, headless: bool = False) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": _labels(app)},
        "spec": {
            **({"clusterIP": "None"} if headless else {}),
            "selector": {"app.kubernetes.io/name": app},
            "ports": [{"name": "http", "port": port, "targetPort": "http"}],
        },
    }


def _router(deployment: Deployment, name: str) -> list[Object]:
    """vllm-router before the replicas: it sends a conversation to where its beginning is in the cache."""
    container = {
        "name": "router",
        "image": deployment.wishes.router_image,
        "command": [
            "vllm-router",
            *("--service-discovery", "--service-discovery-namespace", "$(NAMESPACE)"),
            *("--selector", f"app.kubernetes.io/name={deployment.name}"),
            *("--service-discovery-port", str(deployment.port)),
            *("--policy", "cache_aware", "--host", "0.0.0.0", "--port", str(ROUTER_PORT)),
        ],
        "env": [{"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}],
        "ports": [{"name": "http", "containerPort": ROUTER_PORT}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5},
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": _HARDENED,
    }
    pod = {
        "enableServiceLinks": False,
        "serviceAccountName": name,
        "terminationGracePeriodSeconds": DRAIN + 30,
        "securityContext": _USER,
        "containers": [container],
    }
    meta = {"name": name, "labels": _labels(name)}
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": [rule]},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name}],
        },
        _workload(name, 1, pod),
        _service(name, name, ROUTER_PORT),
    ]


def _webui(deployment: Deployment, base_url: str) -> list[Object]:
    name = f"{deployment.name}-webui"
    env = [{"name": key, "value": value} for key, value in webui.webui_env(deployment, base_url).items()]
    container = {
        "name": "webui",
        "image": webui.IMAGE,
        "env": [*env, *_key(deployment, deployment.key and "OPENAI_API_KEYS")],
        "ports": [{"name": "http", "containerPort": webui.PORT}],
        "startupProbe": {
            "httpGet": {"path": "/health", "port": "http"},
            "periodSeconds": 10,
            "failureThreshold": 60,
        },
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 10},
        "resources": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
        "volumeMounts": [{"name": "data", "mountPath": "/app/backend/data"}],
    }
    pod = {
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}],
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": _labels(name)},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}},
    }
    return [claim, _workload(name, 1, pod), _service(name, name, webui.PORT)]
