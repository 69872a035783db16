"""`plan_webui`: everything about one Open WebUI on this machine, decided; nothing is started here."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy import ports
from deploy.engines.base import log_path, masked
from deploy.webui.environment import WebuiFound, plan_webui_install
from deploy.webui.settings import webui_settings
from deploy.webui.upstreams import Upstream
from errors import OutputError
from files import cache_dir

__all__ = ["DEFAULT_PORT", "WebuiPlan", "plan_webui"]

DEFAULT_PORT = 8080
"""Open WebUI's own."""
STARTUP_SECONDS = 600.0
"""It imports for half a minute, and migrates its database after an update."""

_CLEARED = ("PYTHONPATH", "OPENAI_*", "OLLAMA_*", "WEBUI_*", "DATA_DIR", "DATABASE_URL", "PORT", "HOST")
"""Variables of other programs that would wire it to something else."""


@dataclass(frozen=True)
class WebuiPlan:
    """One Open WebUI: its command, its environment, where it keeps conversations, what it shows."""

    argv: tuple[str, ...]
    """Empty: it is not installed yet."""
    env: Mapping[str, str] = field(repr=False)
    cleared: tuple[str, ...]
    host: str
    port: int
    data: Path
    log: Path
    upstreams: tuple[Upstream, ...]
    login: bool
    installed: str
    """Where it lies, or will lie."""
    version: str | None
    startup_seconds: float = STARTUP_SECONDS

    @property
    def url(self) -> str:
        return ports.url_of(self.host, self.port)

    def as_json(self) -> dict[str, Any]:
        return {
            "url": self.url,
            "host": self.host,
            "port": self.port,
            "login": self.login,
            "servers": [upstream.as_json() for upstream in self.upstreams],
            "data": str(self.data),
            "environment": self.installed,
            "installed": bool(self.argv),
            "version": self.version,
            "argv": list(self.argv),
            "env": masked(self.env),
            "env_cleared": list(self.cleared),
            "log": str(self.log),
            "startup_seconds": round(self.startup_seconds),
        }

    def rows(self) -> dict[str, str]:
        """Return the plan for people, one fact a row."""
        models = [f"{', '.join(upstream.models)} at {upstream.base_url}" for upstream in self.upstreams]
        return {
            "page": self.url + ("" if self.login else " (no login: this machine only)"),
            **{f"model {i}": text for i, text in enumerate(models, 1)},
            "installed": self.installed if self.argv else f"not yet; will be, in {self.installed}",
            "data": str(self.data),
            "log": str(self.log),
            "settings": " ".join(f"{name}={value}" for name, value in masked(self.env).items()),
        }


def plan_webui(
    found: WebuiFound | None,
    upstreams: Sequence[Upstream],
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    data: Path | None = None,
) -> WebuiPlan:
    """Return the plan; port 0 takes a free one. Where other machines reach `host`, a login is asked for.

    The two ways have data directories of their own: Open WebUI refuses to drop the login once accounts exist.
    """
    port = port or ports.free_port(host)
    login = not ports.is_loopback(host)
    place = (data or cache_dir() / "webui" / ("accounts" if login else "data")).expanduser().absolute()
    address = ports.url_of(host, port)
    first = upstreams[0].models[0] if upstreams else None
    return WebuiPlan(
        argv=(found.program, "serve", "--host", host or "0.0.0.0", "--port", str(port)) if found else (),
        env={
            **webui_settings(
                [upstream.base_url for upstream in upstreams],
                [upstream.api_key for upstream in upstreams],
                login=login,
                model=first,
            ),
            "DATA_DIR": str(place),
            # any page in the same browser could use the models otherwise
            **({} if login else {"CORS_ALLOW_ORIGIN": f"{address};http://localhost:{port}"}),
            "PYTHONUNBUFFERED": "1",
        },
        cleared=_CLEARED,
        host=host,
        port=port,
        data=place,
        log=log_path("open-webui", port),
        upstreams=tuple(upstreams),
        login=login,
        installed=found.program if found else str(plan_webui_install().path),
        version=found.version if found else None,
    )


def secret_key(data: Path) -> str:
    """Return the key that signs sessions, kept in the data directory for this user's eyes; made once.

    Raises `OutputError`.
    """
    file = data / "secret_key"
    try:
        data.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as stream:
                stream.write(secrets.token_hex(32))
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise OutputError(
            f"Open WebUI cannot keep its data in {data}: {error.strerror}.",
            hint="Name another place with --data.",
        ) from error
