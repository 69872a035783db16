"""Several servers at once: their order, their memory, their failures, their end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from cli import main
from deploy.fleet import Budget, Fleet, Member
from deploy.fleet_file import EXAMPLE
from deploy.ports import free_port, is_open
from deploy.servers import list_servers, stop_server
from errors import EngineFailed, Interrupted
from tests.deploy.fleets import FleetRecorder, member
from tests.deploy.supervised import ROOT
from tests.deploy.test_faults import marked

ROOMY = Budget(10**6, lambda: 10**6)


def run(
    members: Sequence[Member],
    until: Callable[[FleetRecorder], bool] = lambda view: bool(view.final),
    *,
    together: bool = False,
    budget: Budget = ROOMY,
) -> tuple[FleetRecorder, int]:
    """Run a fleet until it has settled, or `until` says so; return what was told and its exit code."""
    view, asked = FleetRecorder(), threading.Event()
    fleet = Fleet(members, view, together=together)
    fleet.budgets["RAM"] = Budget(budget.total, budget.free)

    def press_ctrl_c() -> None:
        deadline = time.monotonic() + 60
        while not (until(view) or asked.is_set()) and time.monotonic() < deadline:
            time.sleep(0.02)
        asked.set()

    presser = threading.Thread(target=press_ctrl_c)
    presser.start()
    try:
        return view, fleet.run(asked)
    finally:
        asked.set()
        presser.join()
        assert not [one.name for one in members if is_open(one.plan.host, one.plan.port)]


def order(view: FleetRecorder, state: str) -> list[str]:
    return [line.split()[0] for line in view.told if line.split()[1] == state]


def test_they_start_one_by_one_and_end_the_last_first(tmp_path: Path) -> None:
    """The neediest first, except that `after` waits for somebody."""
    members = [
        member(tmp_path, "small", needs=1),
        member(tmp_path, "late", needs=100, after=("small",)),
        member(tmp_path, "large", needs=50),
    ]
    view, code = run(members)
    assert code == 0
    assert view.final == dict.fromkeys(("small", "late", "large"), "ready")
    assert order(view, "ready") == ["large", "small", "late"]
    assert order(view, "stopped") == ["late", "small", "large"]
    assert view.told.index("large ready") < view.told.index("small starting")
    assert [one.name for one in Fleet(members, view).in_order()] == ["large", "small", "late"]


def test_one_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    members = [
        member(tmp_path, "bad", "--never-stops", needs=9),
        member(tmp_path, "good"),
        member(tmp_path, "orphan", after=("bad",)),
    ]
    view, code = run(members)
    assert view.final == {"bad": "failed", "good": "ready", "orphan": "skipped"}
    assert code == 1
    assert "never stops" in members[0].as_json()["error"]["message"]
    assert members[1].as_json()["health"]["ok"]


def test_or_takes_them_along_if_asked(tmp_path: Path) -> None:
    members = [
        member(tmp_path, "good", needs=9),
        member(tmp_path, "bad", "--no-listen", "--die-after", "0.1"),
    ]
    view, code = run(members, lambda view: False, together=True)
    assert code == 5
    assert view.told[-1] == "good stopped"


@pytest.mark.engines  # not for want of one: they wait for deaths
def test_what_does_not_fit_waits_until_it_does(tmp_path: Path) -> None:
    members = [member(tmp_path, "large", "--die-after", "2", needs=70), member(tmp_path, "small", needs=60)]
    view, code = run(members, lambda view: "small ready" in view.told, budget=Budget(100, lambda: 100))
    assert code == 5, "the large one died"
    assert view.told.index("large failed") < view.told.index("small starting")


def test_what_can_never_fit_is_refused_with_the_numbers(tmp_path: Path) -> None:
    fleet = Fleet(
        [member(tmp_path, "a", needs=6 * 2**30), member(tmp_path, "b", needs=2**30)], FleetRecorder()
    )
    fleet.budgets["RAM"] = Budget(6 * 2**30, lambda: 0)
    with pytest.raises(EngineFailed, match=r"need 7\.0 GiB of RAM \(a 6\.0 GiB, b 1\.0 GiB\).* are 6\.0 GiB"):
        fleet.require_memory()
    fleet.overcommit = True
    fleet.require_memory()


def test_ctrl_c_before_any_is_ready(tmp_path: Path) -> None:
    members = [member(tmp_path, "a", "--loading", "60"), member(tmp_path, "b", needs=1)]
    with pytest.raises(Interrupted):
        run(members, lambda view: "a starting" in view.told)
    assert [one.state for one in members] == ["stopped", "stopped"]


@pytest.mark.engines
def test_a_killed_up_leaves_no_orphan(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    cache = tmp_path / "cache"
    command = [sys.executable, "-m", "tests.deploy.fleets", str(tmp_path), *map(str, ports)]
    environment = {**os.environ, "PORTSIDE_CACHE": str(cache)}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        deadline = time.monotonic() + 30
        while not all(is_open("127.0.0.1", port) for port in ports) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(marked(cache)) >= 7, "this process, and per server a leash, an engine and a grandchild"
        process.kill()
    deadline = time.monotonic() + 30
    while (left := marked(cache)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, f"orphans: {left}"
    assert not any(is_open("127.0.0.1", port) for port in ports)


def test_the_example_is_printed() -> None:
    printed = CliRunner().invoke(main, ["up", "--example"]).stdout
    assert printed == EXAMPLE.read_text()
    assert tomllib.loads(printed)["servers"]


def up_file(tmp_path: Path, model: Path, **more: str) -> tuple[Path, list[int]]:
    """Write a file with two llama.cpp servers of `model`; `more` keys for the second."""
    ports = [free_port(), free_port()]
    lines = "".join(f"{key} = {value}\n" for key, value in more.items())
    (tmp_path / "portside.toml").write_text(
        f'[defaults]\nengine = "llamacpp"\nruntime = "embedded"\nmodel = "{model}"\n'
        f'[servers.one]\nport = {ports[0]}\n[servers.two]\nport = {ports[1]}\nafter = ["one"]\n{lines}'
    )
    return tmp_path / "portside.toml", ports


def test_a_dry_run_shows_every_plan_and_what_it_needs(
    tmp_path: Path, make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SECRET", "hush")
    more = {"as_is": "true", "api_key_env": '"SECRET"', "args": '["-c", "64"]', "env": '{ GGML_X = "1" }'}
    file, ports = up_file(tmp_path, make_checkpoint(), **more)
    done = CliRunner().invoke(main, ["up", str(file), "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    one, two = json.loads(done.stdout)["servers"]
    assert (one["port"], two["port"], two["after"]) == (*ports, ["one"])
    assert two["argv"][-2:] == ["-c", "64"]
    assert two["env"] == {"LLAMA_API_KEY": "***", "GGML_X": "1"}
    assert two["memory"]["bytes"] == sum(two["memory"][part] for part in ("weights", "kv_cache", "engine"))
    assert "hush" not in done.output
    file.write_text(file.read_text() + 'host = "0.0.0.0"\n')
    shown = CliRunner().invoke(main, ["up", str(file), "--dry-run"])
    assert "of RAM needed" in shown.stdout
    assert "Anyone who reaches 0.0.0.0" not in shown.stderr, "it has a key"
    file.write_text(file.read_text().replace("api_key_env = ", 'memory = "1 GiB" # '))
    assert "Anyone who reaches 0.0.0.0" in CliRunner().invoke(main, ["up", str(file), "--dry-run"]).stderr
    assert not (tmp_path / "cache" / "gguf").exists(), "nothing is made"


def test_a_server_that_cannot_be_planned_is_named(tmp_path: Path) -> None:
    file, _ = up_file(tmp_path, tmp_path / "nothing")
    done = CliRunner().invoke(main, ["up", str(file)])
    assert done.exit_code == 3
    assert "[servers.one]" in done.stderr


@pytest.mark.engines
def test_two_real_models_at_once(tmp_path: Path, sample: Path) -> None:
    """In the foreground: both answer, their memory is what was estimated, one Ctrl-C ends both."""
    file, ports = up_file(tmp_path, sample, type='"q4_k_m"')
    command = [sys.executable, "-m", "cli", "up", str(file), "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        assert found["ok"]
        for server, port in zip(found["servers"], ports, strict=True):
            body = {"messages": [{"role": "user", "content": "Hi!"}], "max_tokens": 8}
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60).json()
            assert answer["model"] == server["name"]
            assert 0.3 < _resident(server["pid"]) / server["memory"]["bytes"] < 1.05
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 0
    stopped = [line.split()[1] for line in told.decode().splitlines() if line.endswith("stopped")]
    assert stopped == ["two", "one"]
    assert not any(is_open("127.0.0.1", port) for port in ports)


@pytest.mark.engines
def test_two_real_models_in_the_background(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, ports = up_file(tmp_path, sample)
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(ROOT)
    try:
        done = CliRunner().invoke(main, ["up", str(file), "--detach", "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["ok"]
        assert [(server.name, server.state) for server in list_servers()] == [
            ("one", "ready"),
            ("two", "ready"),
        ]
        assert CliRunner().invoke(main, ["stop", "--all"]).exit_code == 0
    finally:
        for server in list_servers():
            stop_server(server)
    assert not any(is_open("127.0.0.1", port) for port in ports)


def _resident(pid: int) -> int:
    """Return the bytes of memory that a process has in use."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0
