"""One server an engine for all tests that do not need their own, run as `portside serve` runs it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.running import ENGINES, Running, installed, serving


@pytest.fixture(scope="session", params=ENGINES)
def running(
    request: pytest.FixtureRequest, sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The sample on an engine. A test with this fixture runs once for each engine that is installed."""
    engine: str = request.param
    if not installed(engine):
        pytest.skip(f"{engine} is not installed")
    directory = tmp_path_factory.mktemp(engine)
    with serving(engine, sample, directory) as server:
        yield server
    shutil.rmtree(directory)
