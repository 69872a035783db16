"""Where a command finds the server's API key: a file, the environment, or its command line.

Does not know what the key is for. No message here quotes it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from errors import BadInput, UsageError

__all__ = ["KEY_VARIABLE", "key_from_file", "key_from_variable", "takes_key"]

KEY_VARIABLE = "PORTSIDE_API_KEY"
_LONGEST = 4096
"""Characters; HTTP servers take a header of 8 KiB at most."""


def takes_key(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--api-key` and `--api-key-file` to a command that takes `api_key` (None: there is none)."""

    @click.option(
        "--api-key-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"Read the server's API key from FILE; without it {KEY_VARIABLE} is used, if set.",
    )
    @click.option(
        "--api-key",
        envvar=KEY_VARIABLE,
        metavar="KEY",
        help="The key itself. While the command runs, `ps` shows it to everybody on this machine: better use "
        f"--api-key-file or {KEY_VARIABLE}.",
    )
    @functools.wraps(command)
    def run(api_key: str | None, api_key_file: Path | None, **options: Any) -> Any:
        return command(api_key=_key(api_key, api_key_file), **options)

    return run


def _key(given: str | None, file: Path | None) -> str | None:
    """Return the key to use. Raises `UsageError` for two at once, `BadInput` for one that is no key."""
    if file is None:
        return _checked(given, f"what --api-key or {KEY_VARIABLE} gives") if given else None
    source = click.get_current_context().get_parameter_source("api_key")
    if source is ParameterSource.COMMANDLINE:
        raise UsageError("There are two API keys.", hint="Give --api-key-file or --api-key, not both.")
    return key_from_file(file)


def key_from_file(file: Path) -> str:
    """Return the API key that `file` holds. Raises `BadInput`."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"The API key cannot be read from {file}: {error.strerror or error}.") from error
    except UnicodeDecodeError:
        text = "\0"
    return _checked(text.strip(), str(file))


def key_from_variable(name: str) -> str:
    """Return the API key that the environment variable `name` holds. Raises `BadInput`."""
    if name not in os.environ:
        raise BadInput(f"The variable {name} is not set, and an API key should be in it.")
    return _checked(os.environ[name], f"what {name} holds")


def _checked(key: str, where: str) -> str:
    """Return `key` if it can be sent as a bearer token, which is one word of visible ASCII."""
    if not key or len(key) > _LONGEST or not all("!" <= character <= "~" for character in key):
        raise BadInput(
            f"This is no API key: {where}.",
            hint="A key is one line of ASCII characters without spaces; `openssl rand -hex 32` makes one.",
        )
    return key
