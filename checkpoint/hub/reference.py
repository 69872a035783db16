"""The name of a checkpoint on a hub: `hf:org/name@revision`, `modelscope:org/name`.

Does not know what is behind it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from errors import UsageError

__all__ = ["HUBS", "Hub", "HubReference", "parse_reference"]

Hub = Literal["hf", "modelscope"]
HUBS: tuple[Hub, ...] = get_args(Hub)

_REPO = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./+-]*", re.ASCII)


@dataclass(frozen=True)
class HubReference:
    """A repository and, where one is named, its revision: a branch, a tag or a commit."""

    hub: Hub
    repo: str
    revision: str | None = None

    @property
    def name(self) -> str:
        """The model's name: `org/name` without the organisation."""
        return self.repo.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.hub}:{self.repo}" + (f"@{self.revision}" if self.revision else "")

    @classmethod
    def of(cls, hub: Hub, repo: str, revision: str | None = None) -> HubReference:
        """Read `repo`, which may end in @revision. Raises `UsageError` for what cannot be a name."""
        name, at, found = repo.partition("@")
        if at and revision is not None:
            raise UsageError(f"{repo!r} and --revision both name a revision.", hint="Give one of them.")
        revision = found if at else revision
        good = _REPO.fullmatch(name) and (hub == "hf" or "/" in name) and ".." not in name
        if not good or (revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision)):
            raise UsageError(
                f"{repo!r} is not the name of a repository.",
                hint="It has the form ORGANISATION/NAME or ORGANISATION/NAME@REVISION: Qwen/Qwen3-0.6B@main.",
            )
        return cls(hub, name, revision)


def parse_reference(text: str) -> HubReference | None:
    """Return what `hf:…` or `modelscope:…` names, None for anything else (a path).

    Raises `UsageError` when the prefix is there and no name of a repository follows.
    """
    prefix, colon, rest = text.partition(":")
    for hub in HUBS:
        if colon and prefix == hub:
            return HubReference.of(hub, rest)
    return None
