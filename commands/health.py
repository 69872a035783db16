"""The command that judges a running server, once or for as long as it is wanted.

Knows options, exit codes and lines. Does not know rungs or states (`deploy`).
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.base import TEMPLATE, open_model, print_json
from commands.keys import takes_key
from errors import Interrupted, UsageError

if TYPE_CHECKING:
    from deploy.ladder import Target
    from deploy.report import Rung
    from deploy.watch import Change, Watch

__all__ = ["COMMANDS"]

_COLOURS = {"up": "green", "busy": "cyan", "unclear": "yellow"}
_WATCH_ONLY = ("interval", "token_every", "stalled_after", "fail_after", "metrics_port")


@click.command()
@click.argument("url")
@click.option(
    "--checkpoint", "model", type=click.Path(path_type=Path), help="Compare with this model's training."
)
@TEMPLATE
@takes_key
@click.option("--model-name", help="The model to ask [default: the first the server lists]")
@click.option(
    "--wait", type=click.FloatRange(0), default=0.0, metavar="S", help="Seconds to let it come up first."
)
@click.option("--watch", is_flag=True, help="Keep looking until Ctrl-C, and tell every change of its state.")
@click.option(
    "--interval", type=click.FloatRange(0.1), metavar="S", help="Seconds between two looks [default: 10]"
)
@click.option(
    "--token-every",
    type=click.FloatRange(0.1),
    metavar="S",
    help="Ask for a token when nobody got one for this long [default: 60]",
)
@click.option(
    "--token-seconds",
    type=click.FloatRange(0.1),
    metavar="S",
    help="How long a token may take [default: 180, with --watch 60]",
)
@click.option(
    "--stalled-after",
    type=click.FloatRange(0.1),
    metavar="S",
    help="A busy server without a sign of work for this long is down [default: 300]",
)
@click.option(
    "--fail-after", type=click.IntRange(1), metavar="N", help="Exit with 1 after N bad looks in a row."
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Serve what was found as Prometheus metrics on this port of 127.0.0.1.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (with --watch: one a line).")
def health(
    url: str,
    model: Path | None,
    source: str,
    api_key: str | None,
    model_name: str | None,
    wait: float,
    watch: bool,
    as_json: bool,
    **more: Any,
) -> int:
    """Check a running OpenAI-compatible server.

    It answers, it stops by itself, and with --checkpoint or --template: the prompt it really feeds the model
    is the one the model was trained on.

    With --watch the whole ladder is climbed at first and whenever the server was away; in between it is
    asked for its health and its models, and for one token from time to time, but not while others get
    theirs. A busy server is not a dead one: it is told apart by what the engine itself tells of its work.
    Ctrl-C ends the watch with 0 while the server serves, with 1 otherwise.
    """
    from deploy.ladder import Target

    if not watch and (given := [name for name in _WATCH_ONLY if more[name] is not None]):
        flag = given[0].replace("_", "-")
        raise UsageError(f"--{flag} goes with --watch.", hint="Add --watch, or leave it out.")
    if watch and wait:
        raise UsageError("--watch waits for the server anyway.", hint="Leave --wait out.")
    target = Target(model_name, *_training(model, source))
    if watch:
        return _watch(url, target, api_key, as_json, **more)
    return _once(url, target, api_key, as_json, wait, more["token_seconds"])


def _training(model: Path | None, source: str) -> tuple[Any, Any]:
    """Return the template and the checkpoint to compare with, None for what is not known."""
    from chat_templates import load_source

    if model is not None:
        checkpoint, training = open_model(model, source, weights=False)
        return training, checkpoint
    return (None if source == "checkpoint" else load_source(source, None)), None


def _once(
    url: str, target: Target, api_key: str | None, as_json: bool, wait: float, token_seconds: float | None
) -> int:
    import console
    from deploy import check_health
    from deploy.ladder import TOKEN_SECONDS

    report = check_health(
        url,
        checkpoint=target.checkpoint,
        source=target.source,
        api_key=api_key,
        model=target.model,
        wait=wait,
        token_seconds=token_seconds or TOKEN_SECONDS,
    )
    if as_json:
        print_json(report.as_json())
    else:
        console.show_health(report)
    return 0 if report.ok else 1


def _watch(
    url: str,
    target: Target,
    api_key: str | None,
    as_json: bool,
    *,
    fail_after: int | None,
    metrics_port: int | None,
    **pace: float | None,
) -> int:
    import console
    from deploy.client import Client
    from deploy.signals import end_signals
    from deploy.watch import SERVING, Pace, Watch

    with end_signals() as asked_to_stop, contextlib.ExitStack() as stack:

        def guard() -> None:
            if asked_to_stop.is_set():
                raise Interrupted

        def show_first(rung: Rung) -> None:
            if watching.state is None:
                console.show_rung(rung, console.err if as_json else console.out)

        client = stack.enter_context(Client(url, api_key=api_key, guard=guard))
        watching = Watch(
            client,
            target,
            tell=lambda change: _tell(change, watching, as_json),
            climbed=show_first,
            pace=Pace(**{name: seconds for name, seconds in pace.items() if seconds is not None}),
        )
        if metrics_port is not None:
            from deploy.metrics import serve_metrics

            where = stack.enter_context(serve_metrics(watching, metrics_port))
            console.err.print(f"Metrics at {where}")
        try:
            watching.run(fail_after)
        except Interrupted:
            if watching.state is None:
                raise
        return 0 if watching.state in SERVING else 1


def _tell(change: Change, watch: Watch, as_json: bool) -> None:
    import console

    if as_json:
        who = {"url": watch.client.url, "model": watch.model, "server": watch.server}
        click.echo(json.dumps({**change.as_json(), **who}, ensure_ascii=False))
        return
    colour = _COLOURS.get(change.state, "bold red")
    time = change.at.isoformat(sep=" ", timespec="seconds")
    console.out.print(f"[dim]{time}[/] [{colour}]{change.state}[/]  ", end="")
    console.print_line(change.detail)
    if change.hint:
        console.out.print("  [bold]try:[/] ", end="")
        console.print_line(change.hint)


COMMANDS = (health,)
