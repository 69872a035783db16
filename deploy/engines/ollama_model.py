"""The steps that put a model into a running Ollama server: create it from a GGUF file, load it, keep it.

Knows /api/version, /api/blobs, /api/create and /api/generate, and which chat template Ollama then uses. Does
not know where the GGUF file and the Modelfile come from.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_templates import ollama_prefers_gguf
from deploy.client import Client, Reply
from deploy.digests import file_digest
from errors import CheckFailed
from modelfiles import Modelfile, create_request

__all__ = ["CreateModel", "LoadModel", "template_in_use"]

CREATE_SECONDS = 600.0
"""Seconds that Ollama may be silent while it copies and checks a GGUF file."""
FOREVER, AS_USUAL = -1, "5m"
"""Values of keep_alive: never unload; Ollama's default."""


@dataclass(frozen=True)
class CreateModel:
    """Make `name` out of the GGUF file, as `modelfile` says. `jinja`: the chat template inside that file."""

    name: str
    gguf: Path
    modelfile: Modelfile
    jinja: str | None

    rung = "models"

    @property
    def kind(self) -> str:
        return f"create the model {self.name} from {self.gguf.name}: HEAD and POST /api/blobs, /api/create"

    def as_json(self) -> dict[str, Any]:
        """Return the request; its digest is known once the GGUF file is."""
        return {"gguf": str(self.gguf), "request": create_request(self.modelfile, self.name, "sha256:…")}

    def run(self, client: Client) -> str:
        version = client.get("/api/version").json
        if not isinstance(version, dict) or "version" not in version:
            raise CheckFailed(
                f"The server at {client.url} is no Ollama: it has no /api/version.",
                hint="Choose another --port, or set OLLAMA_HOST.",
            )
        digest = f"sha256:{file_digest(self.gguf)}"
        sent = self._send_blob(client, digest)
        reply = client.post("/api/create", create_request(self.modelfile, self.name, digest), CREATE_SECONDS)
        problem = _problem(reply)
        if problem is not None:
            raise CheckFailed(
                f"Ollama did not create the model {self.name!r}: {problem}.",
                hint="Its log says more; an Ollama older than the model's architecture cannot load it.",
            )
        used = template_in_use(str(version["version"]), self.modelfile.template, self.jinja)
        return f"created {self.name} ({sent}), Ollama {version['version']} uses {used}"

    def undo(self, client: Client) -> None:
        """The model stays: `ollama run NAME` is meant to work afterwards."""

    def _send_blob(self, client: Client, digest: str) -> str:
        """Upload the file unless the server has it: POSTing an existing blob breaks the connection."""
        path = f"/api/blobs/{digest}"
        if client.head(path).ok:
            return "its GGUF file was there"
        reply = client.upload(path, self.gguf, CREATE_SECONDS)
        if reply.status not in (200, 201):
            raise CheckFailed(
                f"Ollama did not take the GGUF file {self.gguf}: {reply.words()}.",
                hint="Is its disk full? OLLAMA_MODELS names the directory that it keeps models in.",
            )
        return f"{self.gguf.stat().st_size / 2**20:.0f} MiB sent"


@dataclass(frozen=True)
class LoadModel:
    """Load `name` and keep it loaded; requests without a keep_alive of their own do not change that."""

    name: str
    seconds: float

    rung = "generate"

    @property
    def kind(self) -> str:
        return f"load the model {self.name} and keep it loaded: POST /api/generate"

    def as_json(self) -> dict[str, Any]:
        return {"request": self._request(FOREVER)}

    def run(self, client: Client) -> str:
        reply = client.post("/api/generate", self._request(FOREVER), self.seconds)
        body = reply.json if reply.ok else None
        if not isinstance(body, dict) or not body.get("done"):
            raise CheckFailed(
                f"Ollama lists the model {self.name!r} but does not load it: {reply.words()}.",
                hint="Its log says why; --startup-seconds gives it more time.",
            )
        return "loaded, and kept"

    def undo(self, client: Client) -> None:
        """Let it be unloaded again, if it is loaded: the request would load it otherwise."""
        found = client.get("/api/ps").json
        models = found.get("models") if isinstance(found, dict) else None
        loaded = {model.get("name") for model in models or () if isinstance(model, dict)}
        if not loaded & {self.name, f"{self.name}:latest"}:
            return
        client.post("/api/generate", self._request(AS_USUAL), 10.0)

    def _request(self, keep_alive: int | str) -> dict[str, Any]:
        return {"model": self.name, "keep_alive": keep_alive, "stream": False}


def template_in_use(version: str, template: str | None, jinja: str | None) -> str:
    """Return in words which chat template Ollama `version` renders with.

    Since 0.30 the Modelfile's TEMPLATE gives way to the GGUF's own Jinja where that mentions tools or
    thoughts and the TEMPLATE does not.
    """
    numbers = [int(number) for number in re.findall(r"\d+", version)[:2]]
    if template is None:
        return "a template of its own choice"
    if numbers >= [0, 30] and jinja is not None and (richer := ollama_prefers_gguf(template, jinja)):
        return f"the GGUF file's own chat template (the TEMPLATE has no {' and '.join(richer)})"
    return "the TEMPLATE"


def _problem(reply: Reply) -> str | None:
    """Return what went wrong: errors of a stream come in its lines, under HTTP 200."""
    if not reply.ok:
        return reply.words()
    last: Any = None
    for line in reply.text.splitlines():
        try:
            last = json.loads(line)
        except ValueError:
            return f"it answered {line[:80]!r}"
        if isinstance(last, dict) and "error" in last:
            return str(last["error"])
    return None if isinstance(last, dict) and last.get("status") == "success" else "its answer broke off"
