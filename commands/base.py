"""What every command shares: options, results, and failures as one paragraph with an exit code.

With `--json` one JSON object goes to stdout and nothing else. What a result looks like on a terminal is
`console.py`'s business.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from errors import Interrupted, PortsideError

if TYPE_CHECKING:
    from chat_templates import TemplateSource
    from checkpoint import Checkpoint

__all__ = [
    "ADAPTER",
    "MODEL",
    "SPLIT",
    "TEMPLATE",
    "TYPES",
    "Group",
    "Result",
    "local_model",
    "open_model",
    "print_json",
    "verb",
]

Result = tuple[Any, Callable[[], None], int]
"""What a command returns: its JSON-able result, a function that shows it to a person, its exit code."""

MODEL = click.argument("model", type=click.Path(path_type=Path))
TEMPLATE = click.option(
    "--template",
    "source",
    metavar="SOURCE",
    default="checkpoint",
    show_default=True,
    help="The chat template the model was trained with: checkpoint, family:NAME, xtuner:NAME or FILE.py, "
    "llamafactory:NAME or FILE.yaml, FILE.jinja, FILE.toml, FILE.gguf, or a Modelfile.",
)
TYPES = click.option(
    "--type",
    "types",
    metavar="TYPE",
    multiple=True,
    help="Quantization, e.g. q8_0, q4_k_m, bf16. May be given several times: the weights are read once.",
)
ADAPTER = click.option(
    "--adapter",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path),
    help="A LoRA adapter (peft's directory), merged in while MODEL, its base model, is read.",
)
SPLIT = click.option(
    "--split-max-size",
    "split",
    metavar="SIZE",
    callback=lambda _context, _option, text: _split_size(text),
    help="Write each GGUF in shards of at most SIZE, e.g. 500M or 2G. Ollama takes no shards.",
)


def _split_size(text: str | None) -> int | None:
    from convert.split import read_size

    return None if text is None else read_size(text)


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


def verb(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json`, and print the `Result` that the command returns."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")
    @functools.wraps(command)
    def run(as_json: bool, **options: Any) -> int:
        data, show, code = command(**options)
        if as_json:
            print_json(data)
        else:
            show()
        return int(code)

    return run


def local_model(model: Path, *, weights: bool = True) -> Path:
    """Return where `model` lies on this machine: itself, or what `hf:…` and `modelscope:…` name, fetched.

    Without `weights` only config and tokenizer are fetched.
    """
    from checkpoint.hub import fetch, parse_reference

    reference = parse_reference(model.as_posix())
    if reference is None:
        return model
    import console

    with console.progress(f"Fetching {reference}") as advance:
        return fetch(reference, weights=weights, progress=advance, notify=console.print_warning).path


def open_model(
    model: Path, source: str, adapter: Path | None = None, *, weights: bool = True
) -> tuple[Checkpoint, TemplateSource]:
    """Open `model`, which may lie on a hub, and `adapter` with it; `weights` as for `local_model`."""
    from chat_templates import load_source
    from checkpoint import Checkpoint

    checkpoint = Checkpoint.open(local_model(model, weights=weights)).with_adapter(adapter)
    return checkpoint, load_source(source, checkpoint)


def print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))
