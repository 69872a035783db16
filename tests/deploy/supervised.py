"""A detached server over the fake engine, as processes of their own that a test may kill.

    python -m tests.deploy.supervised start DIRECTORY PORT     what `portside serve --detach` does
    python -m tests.deploy.supervised serve DIRECTORY PORT     the supervisor that it starts

The engine forks grandchildren with sessions of their own, and all of them ignore SIGTERM.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deploy import ServePlan

__all__ = ["fake_plan"]

FAKE = Path(__file__).with_name("fake_engine.py")
ROOT = FAKE.parents[2]


def fake_plan(directory: Path, port: int, *flags: str) -> ServePlan:
    """Return the plan that serves the fake engine on `port`, its log in `directory`."""
    return ServePlan(
        engine="fake",
        runtime="fake",
        name="fake",
        host="127.0.0.1",
        port=port,
        argv=(sys.executable, str(FAKE), "--port", str(port), *flags),
        env={},
        cleared=(),
        served=directory,
        log=directory / "engine.log",
        startup_seconds=30,
        api_key=None,
        allow_unhealthy=False,
    )


def start(directory: Path, port: int) -> int:
    from deploy.servers import start_server

    _, code = start_server(
        [sys.executable, "-m", "tests.deploy.supervised", "serve", str(directory), str(port)],
        name="fake",
        engine="fake",
        model="none",
        url=f"http://127.0.0.1:{port}",
        engine_log=directory / "engine.log",
        env={},
        show=lambda text: None,
    )
    return 0 if code is None else 1


def serve(directory: Path, port: int) -> int:
    import console
    from deploy import serve_in_foreground

    plan = fake_plan(directory, port, "--ignore-sigterm", "--grandchildren", "2")
    return serve_in_foreground(plan, console.ServeView(plan, as_json=True), grace=0.3)


if __name__ == "__main__":
    act = {"start": start, "serve": serve}[sys.argv[1]]
    sys.exit(act(Path(sys.argv[2]), int(sys.argv[3])))
