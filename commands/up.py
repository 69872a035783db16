"""The command that brings up the servers of one file.

Turns the file into plans, and hands them to `deploy.fleet`, or to the background one by one. Does not know
the file's keys (`deploy.fleet_file`) nor how a server is run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.base import local_model, print_json
from commands.keys import KEY_VARIABLE, key_from_file, key_from_variable
from commands.servers import start_detached, warn_of_strangers
from errors import EngineFailed, PortsideError

if TYPE_CHECKING:
    from console_fleet import FleetView
    from deploy import ServePlan, ServeRequest
    from deploy.fleet import Fleet, Member
    from deploy.fleet_file import FleetFile, ServerSpec
    from deploy.servers import Server

__all__ = ["COMMANDS"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default="portside.toml")
@click.option("--example", is_flag=True, help="Print an annotated portside.toml, start nothing.")
@click.option("--dry-run", is_flag=True, help="Print all plans and what they need, start nothing.")
@click.option("--detach", is_flag=True, help="Return once all serve; see `portside ps`, `logs` and `stop`.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout once all are up, nothing else."
)
def up(file: Path, example: bool, dry_run: bool, detach: bool, as_json: bool) -> int:
    """Serve all models of FILE [default: portside.toml].

    They are started one after the other, each when those named in its `after` are ready and its weights and
    KV cache fit into memory, checked like `portside serve` does, and started again when they die. A server
    that fails leaves the others alone. Ctrl-C ends all, the last one first; the exit code is that of the
    first server that failed.
    """
    import console_fleet
    from deploy.fleet_file import EXAMPLE, read_fleet_file

    if example:
        click.echo(EXAMPLE.read_text(encoding="utf-8"), nl=False)
        return 0
    found = read_fleet_file(file)
    for variable, path in found.engines.items():
        os.environ.setdefault(variable, path)
    view = console_fleet.FleetView(as_json=as_json)
    fleet = _fleet(found, view)
    for member in fleet.members if dry_run or not detach else ():  # those in the background tell it
        warn_of_strangers(member.plan)
    if dry_run:
        console_fleet.show_plans(fleet, as_json=as_json)
        return 0
    fleet.require_memory()
    return _in_background(found, fleet, as_json) if detach else _in_foreground(fleet, view)


def _in_foreground(fleet: Fleet, view: FleetView) -> int:
    from deploy.signals import end_signals

    with end_signals(fleet.hurry) as asked_to_stop, view.shown(fleet.members):
        return fleet.run(asked_to_stop)


def _fleet(found: FleetFile, view: FleetView) -> Fleet:
    """Plan every server, in the order of the file. What is wrong with any of them is raised at once."""
    from deploy.fleet import Fleet

    members: list[Member] = []
    for spec in found.servers:
        members.append(_member(found, spec, members))
    return Fleet(members, view, together=found.together, overcommit=found.overcommit, memory=found.memory)


def _member(found: FleetFile, spec: ServerSpec, before: list[Member]) -> Member:
    from deploy import Restarts
    from deploy.fleet import Member
    from deploy.memory import memory_need
    from deploy.ports import require_bindable

    try:
        request = _request(spec)
        plan = _plan(request, spec.env)
        with _environment(spec.env):
            need = memory_need(plan, spec.memory)
        shared = next((m for m in before if m.plan.engine == "ollama" and m.plan.url == plan.url), None)
        if shared is None and not plan.attached:
            require_bindable(plan.host, plan.port)
    except PortsideError as error:
        error.message = f"{found.path}: [servers.{spec.name}]: {error.message}"
        raise
    after = spec.after if shared is None else (*spec.after, shared.name)
    return Member(
        plan,
        need,
        tuple(dict.fromkeys(after)),
        Restarts() if spec.restart else None,
        None if shared is None else lambda: _plan(request, spec.env),
    )


def _plan(request: ServeRequest, env: Mapping[str, str]) -> ServePlan:
    from deploy import plan_serving

    with _environment(env):
        plan = plan_serving(request)
    return dataclasses.replace(plan, env={**plan.env, **env})


def _request(spec: ServerSpec) -> ServeRequest:
    from deploy import ServeRequest

    return ServeRequest(
        engine=spec.engine,
        model=local_model(spec.model),
        source=spec.template,
        gguf_type=spec.type,
        host=spec.host,
        port=spec.port,
        name=spec.name,
        api_key=_key(spec),
        as_is=spec.as_is,
        runtime=spec.runtime,
        allow_unhealthy=spec.allow_unhealthy,
        engine_args=spec.args,
        startup_seconds=spec.startup_seconds,
    )


def _key(spec: ServerSpec) -> str | None:
    """Return the server's own key, else PORTSIDE_API_KEY's (Ollama takes none)."""
    if spec.api_key_file is not None:
        return key_from_file(spec.api_key_file)
    if spec.api_key_env is not None:
        return key_from_variable(spec.api_key_env)
    return (
        key_from_variable(KEY_VARIABLE) if os.environ.get(KEY_VARIABLE) and spec.engine != "ollama" else None
    )


def _in_background(found: FleetFile, fleet: Fleet, as_json: bool) -> int:
    """Start one after the other in a session of its own each; those that came up stay."""
    import console
    import console_servers

    specs = {spec.name: spec for spec in found.servers}
    codes: dict[str, int] = {}
    servers: list[Server] = []
    for member in fleet.in_order():
        lost = [name for name in member.after if codes[name]]
        if lost or not fleet.has_room(member):
            codes[member.name] = EngineFailed.exit_code
            why = f"{lost[0]} is not there" if lost else f"there is no room; it waits {member.detail}"
            console.print_warning(f"{member.name} is not started: {why}.")
            continue
        fleet.take(member)
        spec = specs[member.name]
        server, code = start_detached(member.plan, _options(spec, member), spec.env)
        codes[member.name] = code or 0
        if code is None:
            servers.append(server)
            if not as_json:
                console_servers.show_detached(server)
        elif found.together:
            break
    failed = [code for code in codes.values() if code]
    if failed and found.together:
        _stop_all(servers)
    if as_json:
        up = [{**server.as_json(), **(server.report() or {})} for server in servers]
        print_json(
            {"ok": not failed, "servers": up, "failed": [name for name, code in codes.items() if code]}
        )
    return failed[0] if failed else 0


def _stop_all(servers: list[Server]) -> None:
    from deploy.servers import stop_server

    while servers:
        stop_server(servers.pop())


def _options(spec: ServerSpec, member: Member) -> dict[str, Any]:
    """Return what `portside serve` is given for this server."""
    return {
        "engine": spec.engine,
        "model": spec.model,
        "source": spec.template,
        "gguf_type": spec.type,
        "api_key": member.plan.api_key,
        "as_is": spec.as_is,
        "runtime": spec.runtime,
        "startup_seconds": spec.startup_seconds,
        "allow_unhealthy": spec.allow_unhealthy,
        "restart": spec.restart,
        "engine_args": spec.args,
    }


@contextlib.contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    """Have `added` in this process's environment, for as long as an engine is planned with it."""
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


COMMANDS = (up,)
