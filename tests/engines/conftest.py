"""One server an engine for all tests that do not need their own, run as `portside serve` runs it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.running import ENGINES, Running, installed, serving


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put all tests of one engine side by side, behind those that share no server."""
    items.sort(key=lambda item: ENGINES.index(engine) if (engine := _engine_of(item)) else -1)


def _engine_of(item: pytest.Item) -> str | None:
    call = getattr(item, "callspec", None)
    return call.params.get("running") if call is not None else None


class _Shared:
    """The one server that runs: asking for another engine's ends it."""

    def __init__(self, sample: Path, factory: pytest.TempPathFactory) -> None:
        self.sample = sample
        self.factory = factory
        self.server: Running | None = None
        self.end = contextlib.ExitStack()

    def of(self, engine: str) -> Running:
        if self.server is None or self.server.engine != engine:
            self.close()
            directory = self.factory.mktemp(engine)
            self.end.callback(shutil.rmtree, directory)
            self.server = self.end.enter_context(serving(engine, self.sample, directory))
        return self.server

    def close(self) -> None:
        self.server = None
        self.end.close()


@pytest.fixture(scope="session")
def _shared(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Shared]:
    shared = _Shared(sample, tmp_path_factory)
    yield shared
    shared.close()


@pytest.fixture(params=ENGINES)
def running(request: pytest.FixtureRequest, _shared: _Shared) -> Running:
    """The sample on an engine. A test with this fixture runs once for each engine that is installed."""
    engine: str = request.param
    if not installed(engine):
        pytest.skip(f"{engine} is not installed")
    return _shared.of(engine)
