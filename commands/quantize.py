"""`portside quantize`: checkpoints with smaller weights, for engines that read checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from commands.base import MODEL, Result, local_model, verb

__all__ = ["COMMANDS"]


@click.group()
def quantize() -> None:
    """Make a checkpoint with 4-bit weights (AWQ).

    `portside quantize awq MODEL` has --json; for GGUF types see `portside gguf`.
    """


@quantize.command()
@MODEL
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where to [default: NAME-awq in this directory]"
)
@click.option("--w-bits", "bits", type=click.Choice(("4", "8")), default="4", show_default=True)
@click.option(
    "--w-group-size",
    "group_size",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Weights that share a scale; it divides the sizes of the model.",
)
@click.option(
    "--calib-samples",
    "samples",
    type=click.IntRange(0),
    help="Pieces of calibration data; 0: none [default: 128]",
)
@click.option(
    "--calib-data",
    "data",
    type=click.Path(path_type=Path),
    help="Calibrate with this text file [default: wikitext2, from a model hub]",
)
@click.option("--dry-run", is_flag=True, help="Print the command, run nothing.")
@verb
def awq(model: Path, bits: str, dry_run: bool, **options: Any) -> Result:
    """Quantize MODEL with AWQ, by LMDeploy.

    Runs `lmdeploy lite auto_awq` of the LMDeploy that `portside engines` shows, checks the result, and gives
    it MODEL's own tokenizer, template and generation files. vLLM and LMDeploy serve it. Calibration data like
    those the model answers (--calib-data) keep most of its quality; without any it works offline, too.
    """
    import shlex

    from rich.markup import escape

    from console import err, human_bytes, print_line
    from deploy.quantize import plan_awq, run_awq

    plan = plan_awq(local_model(model), bits=int(bits), **options)
    if dry_run:
        command = " ".join(f"{name}={shlex.quote(value)}" for name, value in plan.env().items())
        return plan.as_json(), lambda: print_line(f"{command} {shlex.join(plan.argv())}"), 0
    for note in plan.notes:
        err.print(f"[dim]{escape(note)}[/]", soft_wrap=True)
    with err.status(f"Quantizing {plan.checkpoint.name}") as status:
        done = run_awq(
            plan, lambda line: status.update(f"Quantizing {plan.checkpoint.name}  {escape(line[:80])}")
        )

    def show() -> None:
        before = human_bytes(plan.checkpoint.weights.bytes)
        print_line(
            f"Wrote {plan.output}: {done.tensors} matrices in {bits} bits, {before} → "
            f"{human_bytes(done.bytes)}, {done.seconds:.0f} s"
        )

    return done.as_json(), show, 0


COMMANDS = (quantize,)
