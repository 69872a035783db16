"""A virtual environment, made in one directory and moved to another.

Knows what of an environment holds its own path: pyvenv.cfg and the programs in bin. Commands run on a leash,
so that pip and compilers end with Portside. Why pip failed is told in words where its log says it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from deploy.engines.environments import distributions_of
from deploy.process import EngineProcess
from errors import EngineMissing
from files import cache_dir

if TYPE_CHECKING:
    from deploy.install.plan import Command, InstallPlan

__all__ = ["add_alias", "make_environment", "run_logged"]

_CLEARED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE*")
_LARGEST_SCRIPT = 1 << 20
_CAUSES = (
    (r"No space left on device|Disk quota exceeded", "The disk is full.", "Free some space, or use --path."),
    (
        r"ensurepip is not available",
        "This Python cannot make virtual environments.",
        "Debian, Ubuntu: apt-get install python3-venv.",
    ),
    (
        r"CMake Error|Failed building wheel|failed to build|ninja: build stopped",
        "Compiling failed.",
        "The log has the compiler's words. CMake and a C++17 compiler are needed, for CUDA its toolkit.",
    ),
    (
        r"Name or service not known|NewConnectionError|Connection refused|ConnectTimeout|timed out|"
        r"Temporary failure in name resolution|Network is unreachable|Could not connect|ProxyError",
        "The package index cannot be reached.",
        "Look at the network, or name a mirror: PIP_INDEX_URL=https://… portside engines install ….",
    ),
    (
        r"No matching distribution found|requires a different Python|is not a supported wheel",
        "The package index has no such package for this Python and machine.",
        "Look at the log: the engine may want another version of Python.",
    ),
    (
        r"ModuleNotFoundError|ImportError|PackageNotFoundError",
        "The engine was installed but cannot be imported.",
        "The log tells what it misses.",
    ),
)


class _View(Protocol):
    def step(self, what: str) -> None: ...
    def line(self, text: str) -> None: ...


def make_environment(plan: InstallPlan, directory: Path, view: _View) -> None:
    """Run the plan's commands in `directory`, then make the environment fit for the plan's path."""
    for number, command in enumerate(plan.steps(directory), 1):
        log = cache_dir() / "logs" / f"install-{plan.engine}-{number}.log"
        run_logged(command, log, view, f"Installing {plan.engine}")
    _relocate(directory, plan.path)


def run_logged(command: Command, log: Path, view: _View, doing: str) -> None:
    """Run a command to its end; raises `EngineMissing` with the cause and the last lines when it fails."""
    view.step(command.line())
    env = {"PYTHONUNBUFFERED": "1", "PIP_NO_INPUT": "1", **command.env}
    with EngineProcess(command.argv, log=log, env=env, cleared=_CLEARED, grace=3.0) as process:
        while (status := process.wait(0.3)) is None:
            view.line("".join(process.tail(1)))
        if status.code == 0:
            return
        lines = process.tail(60)
    sentence, hint = _cause(lines)
    tail = "".join(f"\n    {line[:300]}" for line in lines[-8:])
    raise EngineMissing(
        f"{doing} failed ({status}). {sentence} The end of the log ({log}):{tail}".replace(".  The", ". The"),
        hint=hint,
    )


def _cause(lines: list[str]) -> tuple[str, str | None]:
    for pattern, sentence, hint in _CAUSES:
        if any(re.search(pattern, line) for line in lines):
            return sentence, hint
    return "", None


def _relocate(directory: Path, path: Path) -> None:
    """Write `path` for `directory` wherever the environment knows where it is."""
    old, new = str(directory).encode(), str(path).encode()
    for file in (directory / "pyvenv.cfg", *(directory / "bin").iterdir()):
        if file.is_symlink() or not file.is_file() or file.stat().st_size > _LARGEST_SCRIPT:
            continue
        content = file.read_bytes()
        if old in content and b"\0" not in content:
            mode = file.stat().st_mode
            file.write_bytes(content.replace(old, new))
            file.chmod(mode)


def add_alias(environment: Path, name: str, distribution: str) -> None:
    """Let the environment say that it holds `name`, in the version of `distribution`: metadata, no code."""
    version = distributions_of(environment, (distribution,)).get(distribution)
    folder = next(environment.glob("lib/python3*/site-packages"), None)
    if version is None or folder is None or distributions_of(environment, (name,)):
        return
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "INSTALLER").write_text("portside\n")
