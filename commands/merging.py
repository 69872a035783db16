"""LoRA adapters: `portside merge` makes one checkpoint of two; `gguf --adapter-only` makes a file of its own.

Heavy imports live inside the commands, so that `portside --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.base import Result, local_model, verb
from errors import UsageError

if TYPE_CHECKING:
    from checkpoint.merge import MergePlan

__all__ = ["COMMANDS", "write_adapter_gguf"]


@click.command()
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The directory of the merged checkpoint.",
)
@click.option("--overwrite", is_flag=True, help="Replace the checkpoint that is there already.")
@click.option("--dry-run", is_flag=True, help="Tell what would be merged, write nothing.")
@verb
def merge(base: Path, adapter: Path, output: Path, overwrite: bool, dry_run: bool) -> Result:
    """Merge the LoRA ADAPTER into its BASE model.

    Writes what peft's merge_and_unload and save_pretrained would: safetensors in the dtype of BASE, with its
    config and tokenizer. A tokenizer and a chat template that lie beside ADAPTER are those it was trained
    with, and are used instead.
    """
    import console
    from checkpoint.merge import plan_merge, run_merge

    plan = plan_merge(local_model(base), adapter, output, overwrite=overwrite)
    if dry_run:
        return plan.as_json(), lambda: _show(plan), 0
    with console.progress(f"Merging into {output.name}") as advance:
        files = run_merge(plan, progress=advance)
    data = {**plan.as_json(), "files": [file.as_json() for file in files]}
    return data, lambda: _show(plan, written=True), 0


def _show(plan: MergePlan, *, written: bool = False) -> None:
    import console

    whole = f", {len(plan.replaced)} trained whole" if plan.replaced else ""
    console.print_line(
        f"{len(plan.merged)} matrices merged{whole}, {console.human_bytes(plan.bytes)} in "
        f"{len(plan.shards)} file{'s' if len(plan.shards) > 1 else ''}"
    )
    console.print_line(f"tokenizer: the {plan.tokenizer}'s" + (" own" if plan.tokenizer == "adapter" else ""))
    console.print_line(
        f"chat template: the {plan.template}'s" + (" own" if plan.template == "adapter" else "")
        if plan.template
        else "chat template: none"
    )
    for key, value in plan.changes.items():
        console.print_line(f"config.json: {key} is {str(value).lower()} now")
    if written:
        console.print_line(f"Wrote {plan.directory}")


def write_adapter_gguf(
    base: Path, adapter: Path | None, types: tuple[str, ...], output: Path | None, *, dry_run: bool
) -> Result:
    """Write what `adapter` adds to `base` as a GGUF file for llama.cpp's --lora and Ollama's ADAPTER."""
    import console
    from checkpoint import Checkpoint
    from convert import plan_lora, run_conversion

    if adapter is None:
        raise UsageError("--adapter-only needs --adapter.", hint="Name the adapter's directory.")
    plan = plan_lora(Checkpoint.open(local_model(base)).with_adapter(adapter), types or ("f32",), output)
    if dry_run:
        return plan.as_json(), lambda: console.show_conversion_plan(plan), 0
    with console.progress(f"Converting {plan.name}") as advance:
        files = run_conversion(plan, progress=advance)
    return {"files": [file.as_json() for file in files]}, lambda: console.show_files(files), 0


COMMANDS = (merge,)
