"""The commands that run servers and talk with them: each calls one function of the room `deploy`.

Heavy imports live inside the commands, so that `portside --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from commands.base import MODEL, TEMPLATE, Result, local_model, print_json, verb
from commands.keys import KEY_VARIABLE, takes_key
from errors import CheckFailed, EngineFailed, UsageError

if TYPE_CHECKING:
    from deploy import ServePlan
    from deploy.servers import Server

__all__ = ["COMMANDS", "start_detached", "warn_of_strangers"]

ENGINES = ("llamacpp", "vllm", "lmdeploy", "ollama")


@click.command()
@click.argument("engine", type=click.Choice(ENGINES))
@MODEL
@TEMPLATE
@click.option(
    "--type",
    "gguf_type",
    metavar="TYPE",
    default="q8_0",
    show_default=True,
    help="GGUF type (llamacpp, ollama).",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="0 takes a free port. [default: 8000; ollama: OLLAMA_HOST's, else 11434]",
)
@click.option("--name", help="The model's name in the API [default: the directory's name]")
@takes_key
@click.option(
    "--as-is", is_flag=True, help="Serve the checkpoint untouched: repair neither template nor stops."
)
@click.option(
    "--runtime",
    help="llamacpp: embedded, llama-server or llama-cpp-python [default: llama-server if found]",
)
@click.option("--startup-seconds", type=click.FloatRange(1), help="Time to come up [default: from its size]")
@click.option("--allow-unhealthy", is_flag=True, help="Keep serving when a check fails.")
@click.option("--detach", is_flag=True, help="Return once it serves; see `portside ps`, `logs` and `stop`.")
@click.option(
    "--restart/--no-restart",
    default=None,
    help="Start an engine that dies while serving again [default: with --detach]",
)
@click.option("--dry-run", is_flag=True, help="Print the plan, start nothing.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout once ready, nothing else."
)
@click.argument("engine_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- ENGINE ARGS…]")
def serve(dry_run: bool, detach: bool, restart: bool | None, as_json: bool, **options: Any) -> int:
    """Serve MODEL on ENGINE and prove its answers.

    The server is started, checked on seven rungs (process, port, health, models, generate, stop, prompt) and
    watched until Ctrl-C. A server that does not answer as MODEL was trained is stopped with exit code 1.
    Restarts wait 0, 10, 20 … seconds and end after five in a row of which none served for a minute; with
    --json each prints a line, and another once it serves again.
    """
    import console
    from deploy import Restarts, ServeRequest, plan_serving, serve_in_foreground

    options["model"] = local_model(options["model"])
    request = ServeRequest(**options)
    with console.progress("Preparing the model") as advance:
        plan = plan_serving(request, progress=advance, execute=not dry_run)
    if not detach or dry_run:  # the command that runs in the background tells it, and is passed on
        warn_of_strangers(plan)
    if dry_run:
        console.show_serve_plan(plan, as_json=as_json)
        return 0
    if detach:
        return _serve_detached(plan, {**options, "restart": restart is not False}, as_json)
    try:
        view = console.ServeView(plan, as_json=as_json)
        return serve_in_foreground(plan, view, restarts=Restarts() if restart else None)
    except CheckFailed as error:  # with --json the report is on stdout already
        console.print_error(error)
        return error.exit_code


def warn_of_strangers(plan: ServePlan) -> None:
    """Say so when other machines can use the model without a key."""
    import console
    from deploy.ports import is_loopback

    if plan.api_key or plan.attached or is_loopback(plan.host):
        return
    way = (
        "Ollama knows no API keys: keep it on 127.0.0.1, or behind a proxy that wants one."
        if plan.engine == "ollama"
        else f"Give it a key with --api-key-file FILE or {KEY_VARIABLE}."
    )
    console.print_warning(f"Anyone who reaches {plan.host} can use the model. {way}")


def _serve_detached(plan: ServePlan, options: dict[str, Any], as_json: bool) -> int:
    """Run the same command in a session of its own; return 0 once it serves, or its exit code."""
    import console_servers

    server, code = start_detached(plan, options)
    if code is None and as_json:
        print_json({**server.as_json(), **(server.report() or {})})
    elif code is None:
        console_servers.show_detached(server)
    elif as_json:
        print_json({"ok": False, "exit_code": code})
    return code or 0


def start_detached(
    plan: ServePlan, options: dict[str, Any], env: Mapping[str, str] | None = None
) -> tuple[Server, int | None]:
    """Start `portside serve` with `options` (as `serve` takes them) in the background, `env` added to its
    environment. Returns the server and, where it did not come up, the exit code."""
    import console
    from deploy.servers import start_server

    secret = {KEY_VARIABLE: options["api_key"] or ""}  # where `ps` does not show it
    given = {**options, "host": plan.host, "port": plan.port, "name": plan.name, "api_key": None}
    engine, model, more = given.pop("engine"), str(given.pop("model")), given.pop("engine_args")
    server, code = start_server(
        [sys.executable, "-m", "cli", "serve", *_as_options(given), "--json", "--", engine, model, *more],
        name=plan.name,
        engine=engine,
        model=model,
        url=plan.url,
        engine_log=plan.log,
        env={**(env or {}), **secret, "COLUMNS": os.environ.get("COLUMNS", "110")},
        show=console.pass_on,
    )
    return server, code if code is None or code > 0 else EngineFailed.exit_code


def _as_options(given: dict[str, Any]) -> list[str]:
    """Return parsed options as words of a command line again."""
    names = {"source": "template", "gguf_type": "type"}
    words = []
    for key, value in given.items():
        flag = "--" + names.get(key, key).replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [flag, str(value)]
    return words


@click.command()
@verb
def ps() -> Result:
    """List the servers started with --detach."""
    import console_servers
    from deploy.servers import list_servers

    servers = list_servers()
    data = {"servers": [server.as_json() for server in servers]}
    return data, lambda: console_servers.show_servers(servers), 0


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on as the engine writes, until Ctrl-C.")
@click.option("--previous", is_flag=True, help="The log of the run before this one.")
@click.option("--json", "as_json", is_flag=True, help="Print the path of the log as one JSON object.")
def logs(name: str, follow: bool, previous: bool, as_json: bool) -> None:
    """Print the log of a server's engine.

    NAME is a server that `portside ps` lists.
    """
    import console_servers
    from deploy.servers import find_server

    if follow and previous:
        raise UsageError("A previous run writes no more.", hint="Give --follow or --previous.")
    server = find_server(name)
    if as_json:
        log = server.previous_log if previous else server.engine_log
        print_json({"name": name, "log": str(log), "messages": str(server.messages)})
    else:
        console_servers.print_log(server, follow=follow, previous=previous)


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Stop every server.")
@verb
def stop(names: tuple[str, ...], everything: bool) -> Result:
    """Stop servers started with --detach.

    NAME is a server that `portside ps` lists.
    """
    import console
    from deploy.servers import find_server, list_servers, stop_server

    if bool(names) == everything:
        raise UsageError("Say which server to stop.", hint="Give its name, or --all.")
    servers = list_servers() if everything else tuple(find_server(name) for name in names)
    for server in servers:
        stop_server(server)
    stopped = [server.name for server in servers]
    return {"stopped": stopped}, lambda: console.print_line(f"Stopped {', '.join(stopped) or 'nothing'}."), 0


@click.command()
@click.argument("url")
@click.option(
    "-m", "--message", "messages", multiple=True, help="Say this and leave (repeatable: several turns)."
)
@click.option("--system", help="A system message.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 always takes the likeliest token.")
@click.option("--max-tokens", type=click.IntRange(1), help="Length of an answer at most.")
@takes_key
@click.option("--model-name", "model", help="The model to ask [default: the first the server lists]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")
def chat(as_json: bool, **options: Any) -> None:
    """Talk with a running server.

    Several turns, streamed through the official openai client. At the terminal /reset begins again, /system
    TEXT sets the system message, /save FILE keeps the conversation as JSON.
    """
    from commands.conversation import converse
    from deploy.chat import Chat

    messages = options.pop("messages")
    if not messages and (as_json or not sys.stdin.isatty()):
        raise UsageError("There is no terminal to chat in.", hint="Pass what to say with -m TEXT.")
    talk = Chat(**options)
    converse(talk, messages, quiet=as_json)
    if as_json:
        print_json({"model": talk.model, "messages": talk.messages})


COMMANDS = (serve, ps, logs, stop, chat)
