"""The command that tells which quantization is good enough, and where servers' answers part.

Heavy imports live inside the command, so that `portside --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.base import MODEL, TEMPLATE, Result, local_model, open_model, verb
from commands.keys import takes_key
from commands.views import new_table, steps

if TYPE_CHECKING:
    from deploy.compare.answers import Answer, Parting
    from deploy.compare.quantizations import Comparison

__all__ = ["COMMANDS"]

_DEFAULT_TYPES = ("q8_0", "q4_k_m", "q2_k")


@click.command()
@MODEL
@TEMPLATE
@click.option(
    "--type",
    "types",
    metavar="TYPE",
    multiple=True,
    help=f"A quantization to measure (repeatable) [default: {', '.join(_DEFAULT_TYPES)}]",
)
@click.option(
    "--text",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="UTF-8 text to measure on, best of what the model is for [default: a page that comes along]",
)
@click.option(
    "--windows",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Read this many pieces of 512 tokens at most.",
)
@click.option(
    "--max-kl", type=click.FloatRange(0), help="Exit code 1 unless a type stays below [nats a token]"
)
@click.option("--url", "urls", metavar="URL", multiple=True, help="A running server to ask too (repeatable).")
@click.option(
    "--question",
    "questions",
    metavar="TEXT",
    multiple=True,
    help="Ask this (repeatable) [default with --url: three questions]",
)
@click.option(
    "--max-tokens", type=click.IntRange(1), default=64, show_default=True, help="Length of an answer."
)
@takes_key
@click.option(
    "--plot", metavar="FILE", type=click.Path(path_type=Path), help="Write a figure: .png, .svg, .pdf"
)
@verb
def compare(
    model: Path,
    source: str,
    types: tuple[str, ...],
    text: Path | None,
    windows: int,
    max_kl: float | None,
    urls: tuple[str, ...],
    questions: tuple[str, ...],
    max_tokens: int,
    api_key: str | None,
    plot: Path | None,
) -> Result:
    """Tell which quantization of MODEL is good enough.

    Each type is compared with the precision in which MODEL is stored, on a text: perplexity, and KL
    divergence of the token probabilities. The GGUF files are those that `serve` makes, and stay in the cache.

    With --question or --url the same questions are put to every type and every server, and it is told where
    an answer parts from the reference's.
    """
    from chat_templates import analyse_stops
    from commands.plots import require_plot
    from deploy.compare.quantizations import DEFAULT_MAX_KL, DEFAULT_TEXT, compare_quantizations

    require_plot(plot)
    local = local_model(model)
    checkpoint, training = open_model(local, source)
    with steps() as step:
        comparison = compare_quantizations(
            checkpoint,
            training,
            analyse_stops(training, checkpoint),
            types or _DEFAULT_TYPES,
            text=text or DEFAULT_TEXT,
            windows=windows,
            max_kl=DEFAULT_MAX_KL if max_kl is None else max_kl,
            progress=step,
        )
    partings = []
    if questions or urls:
        kinds = [each.type for each in comparison.quantizations]
        partings = _ask_all(local, source, kinds, urls, questions, max_tokens, api_key)
    if plot is not None:
        _draw(comparison, plot)
    data = comparison.as_json() | {"answers": _as_json(partings), "plot": str(plot) if plot else None}
    code = 1 if max_kl is not None and comparison.choice is None else 0
    return data, lambda: _show(comparison, partings, plot), code


def _ask_all(
    model: Path,
    source: str,
    types: Sequence[str],
    urls: Sequence[str],
    questions: Sequence[str],
    max_tokens: int,
    api_key: str | None,
) -> list[tuple[Answer, list[Parting]]]:
    """Return for each question the reference's answer and where the others part from it."""
    from deploy.compare.answers import QUESTIONS, ask, part, served

    asked = list(questions or QUESTIONS)
    answers = []
    with steps() as step:
        for number, (name, url) in enumerate(
            [*((kind, None) for kind in types), *((url, url) for url in urls)]
        ):
            step(f"Asking {name}", number, len(types) + len(urls))
            with ExitStack() as stack:
                where = url or stack.enter_context(served(model, source, name))
                answers.append(ask(where, name, asked, max_tokens, api_key if url else None))
    reference, *others = answers
    return [
        (reference[index], [part(reference[index], other[index]) for other in others])
        for index in range(len(asked))
    ]


def _as_json(partings: list[tuple[Answer, list[Parting]]]) -> list[dict[str, Any]]:
    return [
        {
            "question": reference.question,
            "reference": reference.as_json(),
            "others": [each.as_json() for each in others],
        }
        for reference, others in partings
    ]


def _show(comparison: Comparison, partings: list[tuple[Answer, list[Parting]]], plot: Path | None) -> None:
    import console
    from commands.plots import bars

    table = new_table("type", "size", "perplexity", "KL", "KL 99 %", "same top", "RMS Δp")
    for each in comparison.quantizations:
        found = each.divergence
        table.add_row(
            each.type,
            console.human_bytes(each.bytes),
            f"{found.perplexity:.2f} ± {found.perplexity_error:.2f}",
            f"{found.kl:.5f}",
            f"{found.kl_p99:.4f}",
            f"{found.same_top:.1%}",
            f"{found.rms_shift:.2%}",
        )
    console.out.print(table)
    console.print_line("")
    for line in bars({each.type: each.divergence.kl for each in comparison.quantizations}, "nats"):
        console.print_line(line)
    tokens = comparison.quantizations[0].divergence.tokens
    console.print_line("")
    choice = comparison.choice
    verdict = f"{choice.type} is the smallest with" if choice else "No type has"
    console.print_line(
        f"{verdict} a KL divergence of at most {comparison.max_kl:g} from {comparison.reference} "
        f"({tokens} tokens judged)."
    )
    for reference, others in partings:
        _show_question(reference, others)
    if plot is not None:
        console.print_line(f"Wrote {plot}")


def _show_question(reference: Answer, others: list[Parting]) -> None:
    import console

    console.print_line(f"\n? {reference.question}")
    console.print_line(f"  {reference.server}: {reference.text!r}")
    for each in others:
        drift = "" if each.drift is None else f" (probabilities drift by {each.drift:.1%} at most)"
        if each.character is None:
            console.print_line(f"  {each.answer.server}: the same{drift}")
            continue
        console.print_line(
            f"  {each.answer.server}: parts after {each.character} characters, …{each.common!r}{drift}"
        )
        console.print_line(f"    {each.answer.text!r}")
        for name, top in ((reference.server, each.reference_top), (each.answer.server, each.top)):
            if top:
                expected = ", ".join(f"{token!r} {share:.1%}" for token, share in top[:3])
                console.print_line(f"    {name} expected {expected}")


def _draw(comparison: Comparison, path: Path) -> None:
    from commands.plots import new_figure, save_figure

    drawn, (left, right) = new_figure(10, 4, 2)
    drawn.suptitle(f"{comparison.model}: quantizations against {comparison.reference}")
    rest = comparison.quantizations[1:]
    left.errorbar(
        [each.bytes / 1e6 for each in rest],
        [max(each.divergence.kl, 1e-7) for each in rest],
        yerr=[each.divergence.kl_error for each in rest],
        fmt="o",
    )
    for each in rest:
        place = (each.bytes / 1e6, max(each.divergence.kl, 1e-7))
        left.annotate(each.type, place, xytext=(5, 5), textcoords="offset points")
    left.axhline(comparison.max_kl, linestyle="--", color="grey")
    left.set(xlabel="size of the file in MB", ylabel="KL divergence, nats a token", yscale="log")
    left.grid(visible=True, alpha=0.3)
    every = comparison.quantizations
    right.bar(
        [each.type for each in every],
        [each.divergence.perplexity for each in every],
        yerr=[each.divergence.perplexity_error for each in every],
        capsize=4,
    )
    right.set(ylabel="perplexity")
    save_figure(drawn, path)


COMMANDS = (compare,)
