"""Where Open WebUI is installed, and the plan for installing it in an environment of its own in the cache.

The directory's name carries the hash of the pinned requirements: other requirements make another environment.
Does not know servers.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

from deploy.engines.environments import Place, environment_at, find_environment
from deploy.install.plan import Command, InstallPlan
from errors import EngineMissing
from files import cache_dir

__all__ = ["REQUIREMENTS", "WebuiFound", "find_webui", "plan_webui_install"]

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements" / "open-webui.txt"
PLACE = Place("PORTSIDE_OPEN_WEBUI", "open-webui", "open_webui")
DISTRIBUTION = "open_webui"


@dataclass(frozen=True)
class WebuiFound:
    """An Open WebUI on this machine; `version` None: nothing tells."""

    program: str
    version: str | None


def find_webui() -> WebuiFound | None:
    """Return the Open WebUI that PORTSIDE_OPEN_WEBUI names, else PATH's, else the cache's; nothing is run.

    Raises `EngineMissing` when what the user named is none.
    """
    found, named = find_environment(PLACE, (DISTRIBUTION,))
    if found is None and named:
        raise EngineMissing(
            f"There is no Open WebUI in {named}.",
            hint="Name a virtual environment in which it is installed, or none: then it is installed in the "
            "cache.",
        )
    found = found or environment_at(_own_environment(), PLACE, (DISTRIBUTION,))
    if found is None or found.program is None:
        return None
    return WebuiFound(str(found.program), found.versions.get(DISTRIBUTION))


def plan_webui_install() -> InstallPlan:
    """Return what `portside webui --install` runs. Raises `EngineMissing` without the pinned requirements."""
    return InstallPlan("open-webui", "cpu", _own_environment(), PLACE, (DISTRIBUTION,), _steps)


def _steps(directory: Path) -> tuple[Command, ...]:
    pip = (str(directory / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install")
    return (
        Command((sys.executable, "-m", "venv", str(directory))),
        Command((*pip, "--no-deps", "--progress-bar", "off", "-r", str(REQUIREMENTS))),
    )


def _own_environment() -> Path:
    try:
        key = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:8]
    except OSError as error:
        raise EngineMissing(
            "Portside was installed without its pinned requirements, so it cannot install Open WebUI.",
            hint=f"Install it in an environment of your own and name that with {PLACE.variable}.",
        ) from error
    return cache_dir() / "engines" / f"{REQUIREMENTS.stem}-{key}"
