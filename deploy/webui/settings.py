"""What Open WebUI is told, as its own environment variables: here, in a container, on another machine.

Knows Open WebUI 0.12's variables. Does not know how it is started.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from deploy.webui.upstreams import SEPARATOR, Upstream

__all__ = ["IMAGE", "elsewhere", "webui_settings"]

IMAGE = "ghcr.io/open-webui/open-webui:v0.12.4-slim"
"""Without the models that the settings switch off."""
DUMMY_KEY = "none"
"""For a server without a key: Open WebUI sends one in any case."""
CONTAINER_HOST = "host.docker.internal"
_LOCAL = {"127.0.0.1", "localhost", "::1"}

_QUIET = {
    "ENABLE_OLLAMA_API": "False",  # Ollama is shown through /v1 like every other server
    "ENABLE_PERSISTENT_CONFIG": "False",  # else the database's older settings win over these
    "ENABLE_TITLE_GENERATION": "False",
    "ENABLE_TAGS_GENERATION": "False",
    "ENABLE_FOLLOW_UP_GENERATION": "False",
    "ENABLE_EVALUATION_ARENA_MODELS": "False",
    "ENABLE_VERSION_UPDATE_CHECK": "False",
    "RAG_EMBEDDING_ENGINE": "openai",
    "BYPASS_EMBEDDING_AND_RETRIEVAL": "True",
    "AUDIO_STT_ENGINE": "web",
    "OFFLINE_MODE": "True",
    "HF_HUB_OFFLINE": "1",
    "ANONYMIZED_TELEMETRY": "False",
    "DO_NOT_TRACK": "true",
    "SCARF_NO_ANALYTICS": "true",
}
"""Nothing is downloaded, nothing is reported, and the model is asked nothing but what the person asks:
titles, tags and follow-ups are prompts that it may not have been trained for, and each keeps it busy."""


def webui_settings(
    base_urls: Sequence[str], keys: Sequence[str | None], *, login: bool, model: str | None = None
) -> dict[str, str]:
    """Return the variables that show the servers at `base_urls` (with /v1); `model` is the first choice."""
    return {
        "OPENAI_API_BASE_URLS": SEPARATOR.join(base_urls),
        "OPENAI_API_KEYS": SEPARATOR.join(key or DUMMY_KEY for key in keys),
        "WEBUI_AUTH": str(login),
        **({"DEFAULT_MODELS": model} if model else {}),
        **_QUIET,
    }


def elsewhere(upstreams: Sequence[Upstream]) -> dict[str, Any]:
    """Return the settings for an Open WebUI in a container here, and on another machine.

    `docker` is a command line, `environment` its variables, `notes` what must hold for them to work. Keys are
    not in it: they are read from PORTSIDE_API_KEY when the command runs.
    """
    urls = [upstream.base_url for upstream in upstreams]
    reached = [_for_container(url) for url in urls]
    environment = webui_settings(
        reached, [None] * len(reached), login=True, model=upstreams[0].models[0] if upstreams else None
    )
    if any(upstream.api_key for upstream in upstreams):
        environment["OPENAI_API_KEYS"] = "$PORTSIDE_API_KEY"
    return {
        "environment": environment,
        "docker": docker_line(environment),
        "servers": [upstream.as_json() for upstream in upstreams],
        "notes": _notes(urls, reached),
    }


def docker_line(environment: Mapping[str, str]) -> str:
    """Return the command that starts the container; its page is on this machine's port 3000 only."""
    words = [
        *("docker", "run", "--detach", "--name", "open-webui", "--restart", "unless-stopped"),
        *("--publish", "127.0.0.1:3000:8080", "--volume", "open-webui:/app/backend/data"),
        *("--add-host", f"{CONTAINER_HOST}:host-gateway"),
    ]
    line = shlex.join(words)
    for name, value in environment.items():
        line += " \\\n  --env " + (
            f'{name}="{value}"' if value.startswith("$") else shlex.quote(f"{name}={value}")
        )
    return f"{line} \\\n  {IMAGE}"


def _for_container(url: str) -> str:
    """Return `url` as a container on this machine reaches it: its own 127.0.0.1 is another."""
    parsed = httpx.URL(url)
    return str(parsed.copy_with(host=CONTAINER_HOST)) if parsed.host in _LOCAL else url


def _notes(urls: Sequence[str], reached: Sequence[str]) -> list[str]:
    moved = [url for url, there in zip(urls, reached, strict=True) if url != there]
    notes = ["A base URL ends in /v1; without it Open WebUI finds no models."]
    if moved:
        notes += [
            f"In a container 127.0.0.1 is the container itself; this machine is {CONTAINER_HOST}. A server "
            "on 127.0.0.1 is not reached from there: serve with --host 0.0.0.0 and --api-key-file.",
            f"For an Open WebUI on another machine, write this machine's name for {CONTAINER_HOST}.",
        ]
    return notes
