"""One repository at one revision, whichever hub it lies on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from checkpoint.hub.selection import HubFile
from errors import OutputError

__all__ = ["Advance", "Repository", "require_space"]

Advance = Callable[[int], None]
"""Called with the bytes that came since the last call; negative where some have to come again."""

_RESERVE = 100 * 1000**2
"""Bytes that stay free."""


class Repository(Protocol):
    """What is asked of a hub's library. All raise `HubError`."""

    @property
    def revision(self) -> str:
        """The commit, where the hub has one; else the branch or tag."""

    @property
    def files(self) -> Mapping[str, HubFile]:
        """The files at the root."""

    @property
    def directory(self) -> Path:
        """Where the files go; need not exist yet."""

    def present(self, file: HubFile) -> int:
        """Return how many bytes of `file` are here already."""

    def download(self, files: Sequence[HubFile], advance: Advance) -> None:
        """Fetch what is missing of `files`, going on where an earlier download stopped, and verify it."""

    def path(self, file: HubFile) -> Path:
        """Return where a file that was downloaded lies."""

    def finish(self, files: Sequence[HubFile]) -> Path:
        """Return the directory in which all downloaded `files` have their names."""


def require_space(directory: Path, size: int) -> None:
    """Raise `OutputError` when `size` more bytes do not fit on the disk of `directory`."""
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if size + _RESERVE > free:
        raise OutputError(
            f"{size / 1e9:.1f} GB are to come, and the disk of {directory} has {free / 1e9:.1f} GB free.",
            hint="Free some space, or name another place with -o DIR (or HF_HOME, MODELSCOPE_CACHE).",
        )
