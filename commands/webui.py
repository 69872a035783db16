"""The command that puts Open WebUI before running servers. Heavy imports live inside."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.base import print_json
from commands.keys import KEY_VARIABLE, takes_key
from errors import BadInput, UsageError

if TYPE_CHECKING:
    from deploy.install import Installed
    from deploy.webui import WebuiPlan

__all__ = ["COMMANDS"]

NAME = "open-webui"
"""In `portside ps`, `logs` and `stop`."""


@click.command()
@click.argument("urls", metavar="[URL]...", nargs=-1)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address of the page; others want a login."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: a free one.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where conversations are kept [default: in the cache]",
)
@takes_key
@click.option("--detach", is_flag=True, help="Return once the page is up; see `portside ps` and `stop`.")
@click.option("--install", is_flag=True, help="Only install it, start nothing.")
@click.option(
    "--settings", is_flag=True, help="Print the settings for one that runs elsewhere, start nothing."
)
@click.option("--dry-run", is_flag=True, help="Print the plan, start nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")
def webui(
    urls: tuple[str, ...],
    host: str,
    port: int,
    data: Path | None,
    api_key: str | None,
    detach: bool,
    install: bool,
    settings: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Open WebUI before running servers.

    URL is an OpenAI-compatible server; without one, all that `portside ps` lists are shown. One API key is
    for all of them; of several, separated by ";", each is for one. Open WebUI is installed in the cache the
    first time (1 GB, some minutes), and runs until Ctrl-C.
    """
    import console
    from commands.engines_view import show_installed
    from deploy.webui import connect, elsewhere, find_webui, plan_webui, run_webui

    if sum((detach, install, settings, dry_run)) > 1:
        raise UsageError("--detach, --install, --settings and --dry-run exclude each other.")
    if install:
        done = _install()
        print_json(done.as_json()) if as_json else show_installed(done)
        return 0
    upstreams = connect(urls or _running(), api_key)
    if settings:
        found = elsewhere(upstreams)
        print_json(found) if as_json else _show_settings(found)
        return 0
    plan = plan_webui(find_webui(), upstreams, host=host, port=port, data=data)
    if dry_run:
        print_json(plan.as_json()) if as_json else console.show_facts(plan.rows())
        return 0
    if not plan.argv:
        console.err.print("Installing Open WebUI in the cache (once, 1 GB, some minutes) …")
        _install()
        plan = plan_webui(find_webui(), upstreams, host=host, port=plan.port, data=data)
    if detach:
        return _run_detached(plan, api_key, as_json)
    return run_webui(plan, _View(plan, as_json=as_json))


def _running() -> Sequence[str]:
    """Return the URLs of the servers that were started with --detach and are ready."""
    from deploy.servers import list_servers

    urls = [server.url for server in list_servers() if server.engine != NAME and server.state == "ready"]
    if urls:
        return urls
    raise BadInput(
        "No server runs that Open WebUI could show.",
        hint="Start one with `portside serve ENGINE MODEL --detach`, or give the URL of one.",
    )


def _install() -> Installed:
    """Make the environment in the cache, unless it is there."""
    from commands.engines_view import InstallProgress
    from deploy.install import run_install
    from deploy.webui import plan_webui_install

    plan = plan_webui_install()
    with InstallProgress(plan) as view:
        return run_install(plan, view)


def _run_detached(plan: WebuiPlan, api_key: str | None, as_json: bool) -> int:
    """Run the same command in a session of its own; return 0 once the page is up, or its exit code."""
    import console
    from deploy.servers import start_server

    options = ["--host", plan.host, "--port", str(plan.port), "--data", str(plan.data), "--json"]
    server, code = start_server(
        [sys.executable, "-m", "cli", "webui", *options, *(upstream.url for upstream in plan.upstreams)],
        name=NAME,
        engine=NAME,
        model=", ".join(model for upstream in plan.upstreams for model in upstream.models),
        url=plan.url,
        engine_log=plan.log,
        env={KEY_VARIABLE: api_key or ""},  # where `ps` does not show it
        show=console.pass_on,
    )
    if code is not None:
        return code
    if as_json:
        print_json({**server.as_json(), "ok": True})
    else:
        console.print_line(f"The page {plan.url} is up in the background. `portside stop {NAME}` ends it.")
    return 0


def _show_settings(found: dict[str, Any]) -> None:
    import console

    console.print_line(found["docker"])
    for note in found["notes"]:
        console.err.print(f"[dim]{note}[/]", soft_wrap=True)


class _View:
    """Tells a person, or with `as_json` a script, how the page comes up."""

    def __init__(self, plan: WebuiPlan, *, as_json: bool) -> None:
        import console

        self.plan = plan
        self.as_json = as_json
        self.console = console.err if as_json else console.out

    def starting(self) -> None:
        self.console.print(f"Starting Open WebUI on {self.plan.url} [dim](log: {self.plan.log})[/]")

    def waiting(self, seconds: float, last_line: str) -> None:
        import console

        console.show_waiting(seconds, last_line)

    def ready(self, seconds: float, pid: int) -> None:
        if self.as_json:
            facts = {"ok": True, "url": self.plan.url, "pid": pid, "seconds": round(seconds, 1)}
            servers = [upstream.as_json() for upstream in self.plan.upstreams]
            sys.stdout.write(f"{_line({**facts, 'servers': servers})}\n")
            sys.stdout.flush()
            return
        for upstream in self.plan.upstreams:
            self._say(f"  {', '.join(upstream.models)}  from {upstream.base_url}")
        self._say(f"The page is up: {self.plan.url}   Ctrl-C ends it.")

    def _say(self, text: str) -> None:
        import console

        console.print_line(text)

    def stopping(self) -> None:
        self.console.print("Stopping …")


def _line(data: dict[str, Any]) -> str:
    import json

    return json.dumps(data, ensure_ascii=False)


COMMANDS = (webui,)
