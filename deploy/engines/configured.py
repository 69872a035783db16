"""Where the user says an engine is: the `[engines]` table of `./portside.toml`.

    [engines]
    vllm = "~/envs/vllm"                # a virtual environment, its python, or the program
    llama_server = "build/bin"          # relative to portside.toml

Does not know what else is in the file, nor what a path leads to.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from errors import UsageError

__all__ = ["FILE", "KEYS", "configured_path"]

FILE = "portside.toml"
KEYS = ("vllm", "lmdeploy", "ollama", "llama_server", "llama_cpp_python", "open_webui")


def configured_path(key: str, directory: Path | None = None) -> Path | None:
    """Return the path that `portside.toml` in `directory` (the working one) gives for `key`, None for none.

    Raises `UsageError` for a file that is no TOML, and for a table with other keys or no paths.
    """
    file = (directory or Path.cwd()) / FILE
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8")).get("engines", {})
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read {file}: {error}.", hint="It is a TOML file.") from error
    strange = [name for name in table if name not in KEYS] if isinstance(table, dict) else ["engines"]
    if strange:
        raise UsageError(
            f"{file} says {strange[0]!r} where it tells the place of engines.",
            hint=f"Keys of the table [engines]: {', '.join(KEYS)}.",
        )
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise UsageError(f"engines.{key} in {file} is not a path: {value!r}.", hint=f'{key} = "PATH"')
    return (file.parent / Path(value).expanduser()).absolute()
