"""`portside gguf`: quantized files from a checkpoint, and a look at one that is there.

Heavy imports live inside the functions, so that `portside --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.base import ADAPTER, MODEL, SPLIT, TEMPLATE, TYPES, Result, local_model, open_model, verb
from commands.foreign import LLAMA_CPP, TRUST_CODE, convert_with_llama_cpp, is_foreign
from commands.merging import write_adapter_gguf
from errors import UsageError

if TYPE_CHECKING:
    from chat_templates import Stops, TemplateSource
    from checkpoint import Checkpoint

__all__ = ["gguf"]


@click.command()
@MODEL
@TYPES
@TEMPLATE
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Directory for the files [default: .]")
@ADAPTER
@click.option(
    "--adapter-only",
    is_flag=True,
    help="Write the adapter alone, for a GGUF of MODEL: llama.cpp's --lora, Ollama's ADAPTER "
    "[default type: f32].",
)
@SPLIT
@click.option(
    "--tensor-type",
    "overrides",
    metavar="PATTERN=TYPE",
    multiple=True,
    help="The type of tensors in whose names PATTERN is found, e.g. attn_v=q8_0 (repeatable).",
)
@click.option("--pure", is_flag=True, help="No mixture: the same type for every matrix.")
@click.option(
    "--imatrix",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Weigh the columns by an importance matrix of llama-imatrix's (GGUF or .dat).",
)
@click.option("--pre", metavar="NAME", help="llama.cpp's pre-tokenizer, where it is not recognised.")
@LLAMA_CPP
@TRUST_CODE
@click.option("--as-is", is_flag=True, help="Repair nothing: write what llama.cpp's own converter would.")
@click.option("--threads", type=click.IntRange(1), help="Threads [default: all cores]")
@click.option(
    "--kernels",
    type=click.Choice(["auto", "ggml", "fast"]),
    default="auto",
    help="What quantizes; the bytes are the same [default: fast where llvmlite is installed]",
)
@click.option("--dry-run", is_flag=True, help="Print the plan, convert nothing.")
@click.option(
    "--check",
    is_flag=True,
    help="Convert nothing: MODEL is a GGUF file (or one of its shards), which is read again.",
)
@click.option(
    "--checkpoint",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path),
    help="With --check: the file must carry this checkpoint's chat template and stops.",
)
@verb
def gguf(
    model: Path,
    types: tuple[str, ...],
    source: str,
    output: Path | None,
    adapter: Path | None,
    adapter_only: bool,
    split: int | None,
    overrides: tuple[str, ...],
    pure: bool,
    imatrix: Path | None,
    pre: str | None,
    llama_cpp: Path | None,
    trust_code: bool,
    as_is: bool,
    threads: int | None,
    kernels: str,
    dry_run: bool,
    check: bool,
    checkpoint: Path | None,
) -> Result:
    """Convert MODEL straight to quantized GGUF files.

    The weights are read once, whatever the number of types; no 16-bit file is written in between.

    With --check, exit code 1 when the file is damaged or is not what --checkpoint and --template say.
    """
    import console
    from convert import TypeChoices, plan_conversion, read_importance, read_overrides, run_conversion

    if check:
        return _check_gguf(model, checkpoint, source)
    if checkpoint is not None:
        raise UsageError("--checkpoint belongs to --check.", hint="To convert, name the checkpoint as MODEL.")
    if adapter_only:
        return write_adapter_gguf(model, adapter, types, output, dry_run=dry_run)
    choices = TypeChoices(read_overrides(overrides), pure)
    importance = read_importance(imatrix) if imatrix else None
    opened, training, stops = _open(model, None if as_is else source, adapter)
    if llama_cpp is not None and is_foreign(opened):
        return convert_with_llama_cpp(
            llama_cpp,
            opened,
            types or ("q8_0",),
            output,
            source=training,
            stops=stops,
            choices=choices,
            importance=importance,
            split=split,
            pre=pre,
            threads=threads,
            kernels=kernels,
            trust_code=trust_code,
            dry_run=dry_run,
        )
    plan = plan_conversion(
        opened,
        types or ("q8_0",),
        output or Path(),
        source=training,
        stops=stops,
        choices=choices,
        importance=importance,
        pre=pre,
        split=split,
    )
    if dry_run:
        return plan.as_json(), lambda: console.show_conversion_plan(plan), 0
    console.show_warnings(plan.findings)
    with console.progress(f"Converting {opened.name}") as advance:
        files = run_conversion(plan, progress=advance, threads=threads, kernels=kernels)
    data = {"files": [file.as_json() for file in files]}
    return data, lambda: console.show_files(files), 0


def _open(
    model: Path, source: str | None, adapter: Path | None
) -> tuple[Checkpoint, TemplateSource | None, Stops | None]:
    """Open what is converted, with its training template and stops; without `source` as it is."""
    from chat_templates import analyse_stops
    from checkpoint import Checkpoint

    if source is None:
        return Checkpoint.open(local_model(model)).with_adapter(adapter), None, None
    opened, training = open_model(model, source, adapter)
    return opened, training, analyse_stops(training, opened)


def _check_gguf(file: Path, directory: Path | None, source: str) -> Result:
    import console
    from chat_templates import analyse_stops
    from convert import check_gguf

    training, stops = None, None
    if directory is not None:
        checkpoint, training = open_model(directory, source, weights=False)
        stops = analyse_stops(training, checkpoint)
    elif source != "checkpoint":
        raise UsageError(
            "With --check, --template needs --checkpoint.", hint="A template is written for a tokenizer."
        )
    with console.progress(f"Reading {file.name}") as advance:
        result = check_gguf(file, template=training, stops=stops, progress=advance)
    return result.as_json(), lambda: console.show_gguf_check(result), 0 if result.ok else 1
