"""The servers that Open WebUI shows: each is asked for its models before Open WebUI is.

Does not know Open WebUI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy.client import Client, Reply
from errors import CheckFailed, UsageError

__all__ = ["SEPARATOR", "Upstream", "connect"]

SEPARATOR = ";"
"""Between the keys of several servers, as in Open WebUI's own OPENAI_API_KEYS."""


@dataclass(frozen=True)
class Upstream:
    """An OpenAI-compatible server that answers; `url` is its root, `models` what it lists."""

    url: str
    models: tuple[str, ...]
    api_key: str | None = field(default=None, repr=False)

    @property
    def base_url(self) -> str:
        """What OpenAI clients are given: without /v1 Open WebUI finds no models."""
        return f"{self.url}/v1"

    def as_json(self) -> dict[str, Any]:
        return {"base_url": self.base_url, "models": list(self.models), "key": self.api_key is not None}


def connect(urls: Sequence[str], keys: str | None) -> tuple[Upstream, ...]:
    """Return the servers at `urls`, in their order; one key is for all of them, `A;B` is one for each.

    Raises `UsageError` for keys that do not match the servers in number, and `CheckFailed` for a server that
    does not answer, does not take its key, or lists no model.
    """
    unique = tuple(dict.fromkeys(urls))
    return tuple(_ask(url, key) for url, key in zip(unique, _one_each(keys, len(unique)), strict=True))


def _one_each(keys: str | None, count: int) -> list[str | None]:
    parts: list[str | None] = [part or None for part in (keys or "").split(SEPARATOR)]
    if len(parts) == 1:
        return parts * count
    if len(parts) != count:
        raise UsageError(
            f"There are {len(parts)} API keys for {count} server{'s' * (count > 1)}.",
            hint=f"Give one key for all servers, or one for each, in their order, with {SEPARATOR!r} between "
            "(nothing for a server without a key).",
        )
    return parts


def _ask(url: str, key: str | None) -> Upstream:
    with Client(url, api_key=key) as client:
        reply = client.get("/v1/models")
        models = _names(reply)
        if models:
            return Upstream(client.url, models, key)
        raise _refused(client.url, reply, has_key=key is not None)


def _names(reply: Reply) -> tuple[str, ...]:
    body = reply.json if reply.ok else None
    data = body.get("data") if isinstance(body, dict) else None
    entries = data if isinstance(data, list) else []
    return tuple(str(entry["id"]) for entry in entries if isinstance(entry, dict) and entry.get("id"))


def _refused(url: str, reply: Reply, *, has_key: bool) -> CheckFailed:
    if reply.status in (401, 403):
        given = "takes another API key than it was given" if has_key else "wants an API key"
        return CheckFailed(
            f"{url} {given} ({reply.words()}).",
            hint="Give it with --api-key-file FILE or PORTSIDE_API_KEY.",
        )
    seen = "it lists no model" if reply.ok else reply.words()
    return CheckFailed(
        f"{url} cannot be shown: {seen}.",
        hint=f"`portside health {url}` says more; `portside ps` lists the servers that were started here.",
    )
