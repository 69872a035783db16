"""`portside gguf --llama-cpp`: architectures that only a llama.cpp checkout can convert.

Heavy imports live inside the function, so that `portside --help` answers at once.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.base import Result
from errors import UsageError

if TYPE_CHECKING:
    from chat_templates import Stops, TemplateSource
    from checkpoint import Checkpoint
    from convert import Importance, TypeChoices

__all__ = ["LLAMA_CPP", "TRUST_CODE", "convert_with_llama_cpp", "is_foreign"]

LLAMA_CPP = click.option(
    "--llama-cpp",
    "llama_cpp",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path),
    envvar="LLAMA_CPP_DIR",
    show_envvar=True,
    help="A llama.cpp checkout, whose converter is run for an architecture that Portside does not know; with "
    "the Python of its .venv, or LLAMA_CPP_PYTHON.",
)
TRUST_CODE = click.option(
    "--trust-remote-code", "trust_code", is_flag=True, help="With --llama-cpp: MODEL's own code may be run."
)


def is_foreign(checkpoint: Checkpoint) -> bool:
    """Whether Portside does not know the architecture."""
    from convert.architectures import FAMILIES

    return checkpoint.config.architecture not in FAMILIES


def convert_with_llama_cpp(
    directory: Path,
    checkpoint: Checkpoint,
    types: tuple[str, ...],
    output: Path | None,
    *,
    source: TemplateSource | None,
    stops: Stops | None,
    choices: TypeChoices,
    importance: Importance | None,
    split: int | None,
    pre: str | None,
    threads: int | None,
    kernels: str,
    trust_code: bool,
    dry_run: bool,
) -> Result:
    """Have llama.cpp convert to 16 (or 32) bits, quantize that in one pass, and remove it."""
    import console
    from convert import normalize_type, plan_from_gguf, run_conversion
    from convert.llama_cpp import converted, find_checkout
    from convert.plan import output_directory

    if checkpoint.adapter is not None:
        raise UsageError(
            "--llama-cpp takes no --adapter.", hint="Merge first: portside merge BASE ADAPTER -o MERGED."
        )
    if pre is not None:
        raise UsageError("--llama-cpp takes no --pre.", hint="The checkout decides about the pre-tokenizer.")
    kinds = [normalize_type(kind) for kind in types]
    checkout, place = find_checkout(directory), output_directory(checkpoint, output)
    if dry_run:
        command = checkout.command(checkpoint, place / "TEMPORARY.gguf")
        data = {"llama_cpp": {"directory": str(directory), "command": command}, "types": kinds}
        return data, lambda: console.print_line(" ".join(command)), 0
    console.print_warning(
        f"{checkpoint.config.architecture} is converted by llama.cpp in {directory}, through a temporary "
        f"file of about {console.human_bytes(checkpoint.weights.bytes)}."
    )
    with contextlib.ExitStack() as stack:
        with console.progress("Converting with llama.cpp") as advance:
            temporary = converted(checkout, checkpoint, place, trust_code=trust_code, progress=advance)
            file = stack.enter_context(temporary)
        plan = plan_from_gguf(
            checkpoint,
            file,
            kinds,
            place,
            source=source,
            stops=stops,
            choices=choices,
            importance=importance,
            split=split,
        )
        console.show_warnings(plan.findings)
        with console.progress(f"Quantizing {checkpoint.name}") as advance:
            files = run_conversion(plan, progress=advance, threads=threads, kernels=kernels)
    return {"files": [file.as_json() for file in files]}, lambda: console.show_files(files), 0
