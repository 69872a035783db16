"""The command that measures how fast a server answers.

Heavy imports live inside the command, so that `portside --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.base import Result, verb
from commands.keys import takes_key
from commands.views import new_table, steps
from errors import Interrupted

if TYPE_CHECKING:
    from deploy.load import Bench

__all__ = ["COMMANDS"]


@click.command()
@click.argument("url")
@click.option(
    "-c",
    "--concurrency",
    "concurrencies",
    type=click.IntRange(1, 1000),
    multiple=True,
    default=(1, 2, 4, 8),
    show_default=True,
    help="This many clients at a time (repeatable: one level after the other).",
)
@click.option(
    "--requests",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Questions a level, but at least two a client.",
)
@click.option(
    "--prompt-words",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Length of a prompt, in words of one to two tokens.",
)
@click.option(
    "--max-tokens", type=click.IntRange(1), default=64, show_default=True, help="Length of an answer."
)
@click.option("--seed", type=int, default=0, show_default=True, help="The prompts are made from it.")
@takes_key
@click.option("--model-name", help="The model to ask [default: the first the server lists]")
@click.option(
    "--plot", metavar="FILE", type=click.Path(path_type=Path), help="Write a figure: .png, .svg, .pdf"
)
@verb
def bench(
    url: str,
    concurrencies: tuple[int, ...],
    requests: int,
    prompt_words: int,
    max_tokens: int,
    seed: int,
    api_key: str | None,
    model_name: str | None,
    plot: Path | None,
) -> Result:
    """Measure how fast a running server answers.

    The same questions for every engine, streamed: tokens a second, time to the first token and between
    tokens, with several clients at a time. Ctrl-C shows what there is. Exit code 1 when a request failed.
    """
    from commands.plots import require_plot
    from deploy.load import Load, run_load

    require_plot(plot)
    load = Load(concurrencies, requests, prompt_words, max_tokens, seed)
    with steps() as step:
        found = run_load(url, load, api_key=api_key, model=model_name, progress=step)
    if not found.levels:  # Ctrl-C while it was warming up
        raise Interrupted
    if plot is not None:
        _draw(found, plot)
    failed = any(level.errors for level in found.levels)
    code = Interrupted.exit_code if found.interrupted else int(failed)
    return found.as_json() | {"plot": str(plot) if plot else None}, lambda: _show(found, plot), code


def _show(found: Bench, plot: Path | None) -> None:
    import console
    from commands.plots import bars

    table = new_table("clients", "answered", "tokens/s", "first p50", "p99", "next p50", "p99")
    for level in found.levels:
        table.add_row(
            str(level.concurrency),
            f"{level.requests - sum(level.errors.values())}/{level.requests}",
            f"{level.tokens_per_second:.1f}",
            _milliseconds(level.time_to_first_token, "p50"),
            _milliseconds(level.time_to_first_token, "p99"),
            _milliseconds(level.inter_token, "p50"),
            _milliseconds(level.inter_token, "p99"),
        )
    console.out.print(table)
    console.print_line("")
    for line in bars({f"{each.concurrency}": each.tokens_per_second for each in found.levels}, "tokens/s"):
        console.print_line(line)
    console.print_line("")
    for note in _notes(found):
        console.print_line(note)
    for level in found.levels:
        for error, count in level.errors.items():
            console.print_warning(f"{count} of {level.requests} with {level.concurrency} clients: {error}")
    if plot is not None:
        console.print_line(f"Wrote {plot}")
    if found.interrupted:
        console.print_warning("Interrupted: the last level is not complete.")


def _notes(found: Bench) -> list[str]:
    load = found.load
    prompts = [level.prompt_tokens for level in found.levels if level.prompt_tokens is not None]
    length = f" ({prompts[0]:.0f} tokens)" if prompts else ""
    notes = [
        f"{found.model} ({found.server}) at {found.url}: prompts of {load.prompt_words} words{length}, "
        f"{load.max_tokens} tokens generated, seed {load.seed}."
    ]
    if not found.ignore_eos:
        notes.append("Answers end where the model ends them: this server knows no ignore_eos.")
    if not all(level.counted for level in found.levels):
        notes.append("The server does not count tokens: every piece of text counts as one.")
    return notes


def _milliseconds(figures: dict[str, float | None], name: str) -> str:
    value = figures[name]
    return "–" if value is None else f"{value * 1000:.0f} ms"


def _draw(found: Bench, path: Path) -> None:
    from commands.plots import new_figure, save_figure

    drawn, axes = new_figure(12, 4, 3)
    drawn.suptitle(f"{found.model} ({found.server})")
    clients = [level.concurrency for level in found.levels]
    axes[0].plot(clients, [level.tokens_per_second for level in found.levels], "o-")
    axes[0].set(ylabel="tokens a second, all clients")
    for axis, name in ((axes[1], "time_to_first_token"), (axes[2], "inter_token")):
        for percentile in ("p50", "p90", "p99"):
            values = [getattr(level, name)[percentile] for level in found.levels]
            axis.plot(
                clients, [float("nan") if v is None else v * 1000 for v in values], "o-", label=percentile
            )
        axis.set(ylabel=f"{name.replace('_', ' ')}, ms")
        axis.legend()
    for axis in axes:
        axis.set(xlabel="clients at a time", ylim=(0, axis.get_ylim()[1] * 1.05))
        axis.set_xticks(clients)
        axis.grid(visible=True, alpha=0.3)
    save_figure(drawn, path)


COMMANDS = (bench,)
