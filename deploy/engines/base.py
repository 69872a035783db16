"""What every engine has in common: the request of the user, the plan made from it, and what is installed.

A plan is frozen and complete: argv, environment, files. `--dry-run` prints it, serving executes it, manifests
are rendered from it. Secrets are in the environment only, and masked wherever a plan is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from deploy import ports
from files import cache_dir

if TYPE_CHECKING:
    from chat_templates import TemplateSource
    from checkpoint import Checkpoint
    from deploy.client import Client

__all__ = [
    "Artifact",
    "Engine",
    "EngineFound",
    "Progress",
    "ServePlan",
    "ServeRequest",
    "Step",
    "log_path",
    "masked",
]

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
LOADING_SPEED = 50e6
"""Bytes a second at which a slow disk or network file system still gives weights."""

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)


@dataclass(frozen=True)
class ServeRequest:
    """What the user asked for; the names are those of `portside serve`'s options."""

    engine: str
    model: Path
    source: str = "checkpoint"
    gguf_type: str = "q8_0"
    host: str = DEFAULT_HOST
    port: int | None = None
    """0 takes a free one, None the engine's usual one."""
    name: str | None = None
    api_key: str | None = field(default=None, repr=False)
    as_is: bool = False
    runtime: str | None = None
    allow_unhealthy: bool = False
    engine_args: tuple[str, ...] = ()
    startup_seconds: float | None = None
    in_image: bool = False
    """The engine runs in an image of its own: its program has its usual name there, and nothing is asked of
    this machine."""

    def concrete_port(self) -> int:
        port = DEFAULT_PORT if self.port is None else self.port
        return port or ports.free_port(self.host)


class Artifact(Protocol):
    """Something that is made before the engine starts, and kept in the cache: a GGUF file, a served view."""

    @property
    def kind(self) -> str: ...

    @property
    def path(self) -> Path: ...

    def is_ready(self) -> bool: ...

    def make(self, progress: Progress | None = None) -> None: ...


class Step(Protocol):
    """Something done through the API of a running server before a rung of the ladder is tried."""

    @property
    def rung(self) -> str:
        """The rung that it is part of, and that fails with it."""

    @property
    def kind(self) -> str:
        """What it does, in words."""

    def as_json(self) -> dict[str, Any]: ...

    def run(self, client: Client) -> str:
        """Do it and tell what was done; raises `CheckFailed`."""

    def undo(self, client: Client) -> None:
        """Take back what must not outlive the serving; called when a server that is not ours goes on."""


@dataclass(frozen=True)
class ServePlan:
    """Everything about one serving, decided."""

    engine: str
    runtime: str
    name: str
    """The model's name in the API."""
    host: str
    port: int
    argv: tuple[str, ...]
    """Empty: the server runs already, is used as it is, and goes on when the serving ends."""
    env: Mapping[str, str]
    """Added to the environment; the only place of a secret."""
    cleared: tuple[str, ...]
    """Patterns of variables that are taken out of the environment: they would redirect the engine."""
    served: Path
    """What the engine loads: a GGUF file, a checkpoint, or a view of it."""
    log: Path
    startup_seconds: float
    artifact: Artifact | None = None
    source: TemplateSource | None = field(default=None, repr=False)
    """The training template; None when nobody knows it."""
    checkpoint: Checkpoint | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    allow_unhealthy: bool = False
    notes: tuple[str, ...] = ()
    """Choices that were made for this machine, in words."""
    steps: tuple[Step, ...] = ()
    """What the server is told once it answers, in order."""

    @property
    def attached(self) -> bool:
        """The server is not ours to start or to end."""
        return not self.argv

    @property
    def url(self) -> str:
        """Where a client on this machine finds the server (without /v1)."""
        return ports.url_of(self.host, self.port)

    def prepare(self, progress: Progress | None = None) -> None:
        """Make what the engine loads, unless it is there already."""
        if self.artifact is not None and not self.artifact.is_ready():
            self.artifact.make(progress)

    def shown_env(self) -> dict[str, str]:
        """Return the environment with secrets masked."""
        return masked(self.env)

    def as_json(self) -> dict[str, Any]:
        artifact = self.artifact
        return {
            "engine": self.engine,
            "runtime": self.runtime,
            "name": self.name,
            "url": self.url,
            "host": self.host,
            "port": self.port,
            "argv": list(self.argv),
            "env": self.shown_env(),
            "env_cleared": list(self.cleared),
            "served": str(self.served),
            "artifact": None
            if artifact is None
            else {"kind": artifact.kind, "path": str(artifact.path), "ready": artifact.is_ready()},
            "attached": self.attached,
            "steps": [{"rung": step.rung, "does": step.kind, **step.as_json()} for step in self.steps],
            "template": None if self.source is None else self.source.spec,
            "log": str(self.log),
            "startup_seconds": round(self.startup_seconds),
            "notes": list(self.notes),
        }

    def rows(self) -> dict[str, str]:
        """Return the plan for people, one fact a row."""
        rows = {
            "engine": f"{self.engine} ({self.runtime})",
            "serves": f"{self.name} at {self.url}",
            "command": " ".join(_quoted(word) for word in self.argv) or "none: the server runs already",
            "environment": " ".join(f"{name}={value}" for name, value in self.shown_env().items()),
            "loads": str(self.served),
            "log": str(self.log),
            "ready within": f"{self.startup_seconds:.0f} s",
        }
        if self.artifact is not None and not self.artifact.is_ready():
            rows["made before"] = self.artifact.kind
        rows |= {f"before {step.rung}": step.kind for step in self.steps}
        return rows | {f"note {i}": note for i, note in enumerate(self.notes, 1)}


@dataclass(frozen=True)
class EngineFound:
    """One runtime of an engine on this machine; `path` None: not installed, and `install` says how."""

    name: str
    runtime: str
    path: str | None
    version: str | None
    install: str

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "runtime": self.runtime,
            "found": self.path is not None,
            "path": self.path,
            "version": self.version,
            "install": self.install,
        }


class Engine(Protocol):
    """An engine: from a request to a plan, without starting anything."""

    name: str

    def detect(self) -> tuple[EngineFound, ...]: ...

    def plan(self, request: ServeRequest) -> ServePlan: ...


def masked(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` without what its names say is secret."""
    return {name: "***" if _SECRET.search(name) else value for name, value in env.items()}


def startup_budget(base: float, size: int) -> float:
    """Return the seconds an engine gets to come up: `base` + bytes of weights / 50 MB a second."""
    return base + size / LOADING_SPEED


def log_path(engine: str, port: int) -> Path:
    """Return where the log of an engine on `port` goes; the previous one is kept beside it."""
    return cache_dir() / "logs" / f"{engine}-{port}.log"


def _quoted(word: str) -> str:
    import shlex

    return shlex.quote(word)
