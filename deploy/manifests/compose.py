"""Docker Compose: one file, the files that it mounts, and an .env for the key.

Does not know what is in them: `deployment` does.
"""

from __future__ import annotations

from typing import Any

from deploy.manifests.deployment import CHECKPOINT, DRAIN, MODEL, WRITTEN, Deployment, model_directory
from deploy.manifests.webui import IMAGE, PORT, webui_env

__all__ = ["compose_file"]

KEY = "${PORTSIDE_API_KEY:?is the key of the server; write it to .env}"
_HARDENED = {
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "restart": "unless-stopped",
    "init": True,
}


def compose_file(deployment: Deployment) -> dict[str, Any]:
    """Return the compose file; `docker compose up --wait` succeeds only when the proof does."""
    services = {"engine": _engine(deployment), "proof": _proof(deployment)}
    volumes: dict[str, Any] = {"cache": {}}
    if deployment.wishes.with_webui:
        services["webui"] = _webui(deployment)
        volumes["webui"] = {}
    return {"services": services, "volumes": volumes}


def _mounts(deployment: Deployment) -> list[str]:
    where = model_directory(deployment, ".")
    place = where if where.startswith(("/", ".")) else f"./{where}"
    files = f"./files:{WRITTEN}:ro"
    if not deployment.from_view:
        return [f"{place}:{MODEL}:ro", files]
    return [f"{place}:{CHECKPOINT}:ro", f"./view:{MODEL}:ro", files]


def _engine(deployment: Deployment) -> dict[str, Any]:
    service: dict[str, Any] = {
        "image": deployment.image,
        "entrypoint": [_escaped(word) for word in deployment.command],
        "command": [],
        "environment": {
            **deployment.env,
            **({deployment.key: KEY} if deployment.key else {}),
        },
        "user": "1000:1000",
        "ports": [f"127.0.0.1:{deployment.port}:{deployment.port}"],
        "volumes": [*_mounts(deployment), "cache:/cache"],
        "shm_size": f"{max(2, 2 * deployment.gpus)}gb",
        "ulimits": {"memlock": -1, "stack": 67108864},
        "stop_grace_period": f"{DRAIN + 30}s",
        "healthcheck": {
            "test": ["CMD", *deployment.health_command],
            "start_period": f"{deployment.startup_seconds}s",
            "interval": "10s",
            "timeout": "15s",
            "retries": 6,
        },
        **_HARDENED,
    }
    if deployment.gpus:
        device = {"driver": "nvidia", "count": deployment.gpus, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return service


def _proof(deployment: Deployment) -> dict[str, Any]:
    return {
        "image": deployment.wishes.portside_image,
        "entrypoint": ["sh", "-c", deployment.proof_command(f"http://engine:{deployment.port}")],
        "command": [],
        "environment": {"PORTSIDE_API_KEY": KEY} if deployment.key else {},
        "user": "1000:1000",
        "volumes": _mounts(deployment),
        "depends_on": {"engine": {"condition": "service_healthy"}},
        "healthcheck": {
            "test": ["CMD", "test", "-f", "/tmp/proven"],
            "start_period": "120s",
            "interval": "5s",
            "retries": 3,
        },
        **_HARDENED,
        "restart": "on-failure",
    }


def _webui(deployment: Deployment) -> dict[str, Any]:
    return {
        "image": IMAGE,
        "environment": {
            **webui_env(deployment, f"http://engine:{deployment.port}/v1"),
            **({"OPENAI_API_KEYS": KEY} if deployment.key else {}),
        },
        "ports": [f"127.0.0.1:3000:{PORT}"],
        "volumes": ["webui:/app/backend/data"],
        "depends_on": {"proof": {"condition": "service_healthy"}},
        "restart": "unless-stopped",
    }


def _escaped(word: str) -> str:
    """Compose takes $ for its own."""
    return word.replace("$", "$$")
