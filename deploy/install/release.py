"""Ollama's release for Linux: where its tarball lies, and which it is.

Two sources with the same files: `ollama` (its site, the newest release) and `modelscope`, whose repository
modelscope/ollama-linux also tells sizes and SHA-256. Releases since 0.14 are `.tar.zst`, older ones `.tgz`;
both hold bin/ollama and lib/ollama/. Knows addresses only: fetching is `deploy.install.download`'s business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from errors import UsageError

__all__ = ["SOURCES", "Release", "find_release"]

SOURCES: dict[str, str] = {
    "ollama": "https://ollama.com/download/",
    "modelscope": "https://modelscope.cn/models/modelscope/ollama-linux/resolve/master/",
}
"""Where NAME lies, `auto` tries them in this order."""
FILES_OF_MODELSCOPE = (
    "https://modelscope.cn/api/v1/models/modelscope/ollama-linux/repo/files?Revision=master&Recursive=true"
)
"""Lists the files with `Size` and `Sha256`."""

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_ENDINGS = (".tar.zst", ".tgz")


@dataclass(frozen=True)
class Release:
    """The tarballs to try, in order."""

    urls: tuple[str, ...]
    sha256: str | None = None

    def by_hand(self, path: Path) -> tuple[tuple[str, ...], ...]:
        """Return the commands that do the same without Portside."""
        name = self.urls[0].rpartition("/")[2]
        return (
            ("mkdir", "-p", str(path)),
            ("curl", "-fL", "-C", "-", "-o", name, self.urls[0]),
            ("tar", "-C", str(path), "-xf", name),
        )


def find_release(machine: str, source: str, url: str | None, sha256: str | None) -> Release:
    """Return the release for the architecture `machine`. Raises `UsageError` where there is none."""
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"{sha256!r} is no SHA-256.", hint="It has 64 hexadecimal digits.")
    if url is not None:
        return Release((url,), sha256)
    architecture = _ARCHITECTURES.get(machine.lower())
    if architecture is None:
        raise UsageError(f"Ollama has no release for {machine}.", hint="There are x86-64 and arm64.")
    sources = SOURCES if source == "auto" else {source: SOURCES[source]}
    names = [f"ollama-linux-{architecture}{ending}" for ending in _ENDINGS]
    return Release(tuple(base + name for base in sources.values() for name in names), sha256)
