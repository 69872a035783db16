"""LMDeploy's own chat template class, taken out of its wheel without installing it.

The wheel is downloaded once into the cache directory. `lmdeploy/model.py` is executed with the three
imports it needs (a registry, a logger, a model detector) replaced: the template class uses none of them.
"""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from files import cache_dir

REQUIREMENT = "lmdeploy==0.18.0"


class Registry:
    """As much of mmengine's Registry as the module needs."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.module_dict: dict[str, Any] = {}

    def register_module(self, name: str | list[str], module: Any = None) -> Callable[[Any], Any]:
        def register(cls: Any) -> Any:
            for one in [name] if isinstance(name, str) else name:
                self.module_dict[one] = cls
            return cls

        if module is not None:
            register(module)
        return register

    def get(self, name: str) -> Any:
        return self.module_dict[name]


def _wheel() -> Path | None:
    directory = cache_dir() / "wheels"
    if not list(directory.glob("lmdeploy-0.18.0-*.whl")):
        directory.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        platform = [
            "--only-binary",
            ":all:",
            "--python-version",
            "3.11",
            "--platform",
            "manylinux_2_28_x86_64",
        ]
        subprocess.run([*pip, *platform, "--dest", directory, REQUIREMENT], check=False, capture_output=True)
    return next(directory.glob("lmdeploy-0.18.0-*.whl"), None)


@functools.cache
def _module() -> types.ModuleType | None:
    wheel = _wheel()
    if wheel is None:
        return None
    code = zipfile.ZipFile(wheel).read("lmdeploy/model.py").decode()
    logger = logging.getLogger("lmdeploy-oracle")
    logger.setLevel(logging.CRITICAL)
    stubs: dict[str, dict[str, Any]] = {
        "mmengine": {"Registry": Registry},
        "lmdeploy": {},
        "lmdeploy.archs": {"get_model_arch": None},
        "lmdeploy.utils": {"get_logger": lambda _: logger},
    }
    before = {name: sys.modules.get(name) for name in (*stubs, "lmdeploy.model")}
    module = types.ModuleType("lmdeploy.model")
    try:
        for name, content in stubs.items():
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__dict__.update(content)
        sys.modules["lmdeploy.model"] = module  # dataclasses look their module up
        exec(compile(code, "lmdeploy/model.py", "exec"), vars(module))
    finally:
        for name, old in before.items():
            if old is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = old
    return module


def lmdeploy_render(path: Path, messages: list[dict[str, Any]]) -> str:
    """Return the prompt of LMDeploy's class for the JSON file at `path`; skips without the wheel."""
    module = _module()
    if module is None:
        pytest.skip(f"The wheel of {REQUIREMENT} could not be downloaded")
    prompt: str = module.ChatTemplateConfig.from_json(str(path)).chat_template().messages2prompt(messages)
    return prompt
