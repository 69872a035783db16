"""What servers in the background look like on a terminal: a table, one that came up, a log.

Knows rich and `deploy.servers`. Does not know how a server is started.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from console import err, out
from errors import BadInput

if TYPE_CHECKING:
    from deploy.servers import Server

__all__ = ["print_log", "show_detached", "show_servers"]


def show_detached(server: Server) -> None:
    out.print(f"\nServing [bold]{escape(server.name)}[/] at [bold]{server.url}/v1[/] in the background.")
    name = escape(shlex.quote(server.name))
    out.print(f"[cyan]portside logs {name} -f[/]   [cyan]portside stop {name}[/]")


def show_servers(servers: Sequence[Server]) -> None:
    if not servers:
        err.print("[dim]No server runs in the background.[/]")
        return
    table = Table(
        "name", "engine", "state", "url", "pid", "model", box=None, pad_edge=False, header_style="dim"
    )
    for server in servers:
        name, model = escape(server.name), escape(server.model)
        table.add_row(name, server.engine, server.state, server.url, str(server.pid), model)
    out.print(table)
    for server in servers:
        if server.failure is not None:
            out.print(
                f"\n[bold red]failed[/] {escape(server.name)}: {escape(server.failure)}", soft_wrap=True
            )
            name = escape(shlex.quote(server.name))
            out.print(f"[cyan]portside logs {name}[/]   [cyan]portside stop {name}[/] forgets it")


def print_log(server: Server, *, follow: bool, previous: bool = False) -> None:
    """Copy the engine's log to stdout; with `follow` go on until the server ends or Ctrl-C."""
    log = server.previous_log if previous else server.engine_log
    try:
        stream = log.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadInput(f"Cannot read {log}: {error.strerror}.") from error
    with stream:
        while True:
            alive = server.is_alive
            sys.stdout.write(stream.read())
            sys.stdout.flush()
            if not follow or not alive:
                return
            time.sleep(0.2)
