"""`portside.toml`: several servers in one file, read and checked as a whole before anything is started.

Knows the tables and keys, and says in which line something is wrong. Does not know engines' plans, memory, or
how servers are started. `portside.example.toml` is the reference with every key.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from checkpoint.hub import parse_reference
from deploy.engines.base import DEFAULT_HOST, DEFAULT_PORT
from deploy.engines.configured import KEYS
from errors import BadInput

__all__ = ["ENGINE_VARIABLES", "EXAMPLE", "FleetFile", "ServerSpec", "read_fleet_file"]

EXAMPLE = Path(__file__).with_name("portside.example.toml")
ENGINE_VARIABLES = {key: f"PORTSIDE_{key.upper()}" for key in KEYS}
"""Keys of `[engines]`, and the variables that say the same."""

_ENGINES = ("llamacpp", "vllm", "lmdeploy", "ollama")
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(B|kB|MB|GB|KiB|MiB|GiB)")

_SERVER_KEYS = {
    "engine": "one of " + ", ".join(_ENGINES),
    "model": "a path",
    "template": "text",
    "type": "text",
    "host": "text",
    "port": "a port",
    "as_is": "true or false",
    "runtime": "text",
    "startup_seconds": "a number of seconds",
    "allow_unhealthy": "true or false",
    "restart": "true or false",
    "args": "a list of texts",
    "env": "a table of texts",
    "after": "a list of texts",
    "memory": "a size",
    "api_key_file": "a path",
    "api_key_env": "the name of a variable",
}
_TABLES = {
    "up": {"together": "true or false", "overcommit": "true or false", "memory": "a size"},
    "engines": dict.fromkeys(ENGINE_VARIABLES, "a path"),
    "defaults": {key: kind for key, kind in _SERVER_KEYS.items() if key not in ("port", "after")},
}


@dataclass(frozen=True)
class ServerSpec:
    """One server as the file has it; paths are absolute (`hf:…` stays as it is), sizes in bytes."""

    name: str
    engine: str
    model: Path
    template: str = "checkpoint"
    type: str = "q8_0"
    host: str = DEFAULT_HOST
    port: int | None = None
    as_is: bool = False
    runtime: str | None = None
    startup_seconds: float | None = None
    allow_unhealthy: bool = False
    restart: bool = True
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    memory: int | None = None
    api_key_file: Path | None = None
    api_key_env: str | None = None


@dataclass(frozen=True)
class FleetFile:
    """The whole file. `engines`: variables that name engines, as `ENGINE_VARIABLES` calls them."""

    path: Path
    servers: tuple[ServerSpec, ...]
    engines: Mapping[str, str]
    together: bool = False
    overcommit: bool = False
    memory: int | None = None


def read_fleet_file(path: Path) -> FleetFile:
    """Read and check `path`. Raises `BadInput`: where, what is wrong, what to try."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"Cannot read {path}: {error.strerror}.",
            hint="`portside up --example > portside.toml` makes one.",
        ) from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text.") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path} is not TOML: {error}.", hint="Texts stand in quotation marks.") from error
    return _Reader(path, text).read(raw)


class _Reader:
    """Checks one file; every refusal names the line."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.lines = text.splitlines()

    def read(self, raw: Mapping[str, Any]) -> FleetFile:
        for name, table in raw.items():
            if name != "servers" and name not in _TABLES:
                self.unknown("", name, ("servers", *_TABLES))
            if not isinstance(table, dict):
                self.refuse("", name, f"`{name}` must be a table, `[{name}]`")
        up, engines, defaults = (self.table(name, raw.get(name, {}), keys) for name, keys in _TABLES.items())
        servers = tuple(self.server(name, table, defaults) for name, table in raw.get("servers", {}).items())
        if not servers:
            raise BadInput(
                f"{self.path} has no servers.", hint="Add a table [servers.NAME] with `engine` and `model`."
            )
        self.check_order(servers)
        paths = {ENGINE_VARIABLES[key]: str(self.place(value)) for key, value in engines.items()}
        return FleetFile(self.path, self.with_ports(servers), paths, **up)

    def table(self, name: str, table: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
        """Return the table's values, each of the kind that its key has."""
        found = {}
        for key, value in table.items():
            if key not in keys:
                self.unknown(name, key, keys)
            found[key] = self.value(name, key, value, keys[key])
        return found

    def server(self, name: str, table: Any, defaults: Mapping[str, Any]) -> ServerSpec:
        where = f"servers.{name}"
        if not isinstance(table, dict):
            self.refuse("servers", name, f"`{name}` must be a table, `[{where}]`")
        found = {**defaults, **self.table(where, table, _SERVER_KEYS)}
        for key in ("engine", "model"):
            if key not in found:
                self.refuse(where, None, f"has no `{key}`", f"Add a line `{key} = …`.")
        if "api_key_file" in table and "api_key_env" in table:
            self.refuse(where, "api_key_env", "has two API keys", "Keep `api_key_file` or `api_key_env`.")
        if "api_key_file" in found:
            found["api_key_file"] = self.place(found["api_key_file"])
        model = found["model"]
        found["model"] = self.place(model) if parse_reference(model) is None else Path(model)
        if "template" in found:
            found["template"] = self.source(found["template"])
        return ServerSpec(name=name, **found)

    def value(self, where: str, key: str, value: Any, kind: str) -> Any:
        """Return `value` if it is of its kind, lists as tuples and sizes in bytes."""
        is_text = isinstance(value, str) and bool(value)
        if kind == "a size":
            size = _SIZE.fullmatch(value) if isinstance(value, str) else None
            if size is not None:
                return round(float(size[1]) * _UNITS[size[2]])
            self.refuse(where, key, f"`{key}` is no size: {value!r}", 'Write it like "6 GiB" or "500 MB".')
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = {
            "true or false": isinstance(value, bool),
            "a port": type(value) is int and 0 <= value <= 65535,
            "a number of seconds": number and value >= 1,
            "a list of texts": isinstance(value, list) and all(isinstance(item, str) for item in value),
            "a table of texts": isinstance(value, dict) and all(isinstance(v, str) for v in value.values()),
            _SERVER_KEYS["engine"]: value in _ENGINES if is_text else False,
        }.get(kind, is_text)
        if not fits:
            self.refuse(where, key, f"`{key}` must be {kind}, not {value!r}")
        return tuple(value) if isinstance(value, list) else value

    def check_order(self, servers: tuple[ServerSpec, ...]) -> None:
        """Raise for an `after` that names nobody, or leads back to where it began."""
        after = {server.name: server.after for server in servers}
        for server in servers:
            for other in server.after:
                if other not in after:
                    self.unknown(
                        f"servers.{server.name}", other, [n for n in after if n != server.name], "after"
                    )
            seen, todo = set(), list(server.after)
            while todo:
                name = todo.pop()
                if name == server.name:
                    self.refuse(f"servers.{name}", "after", f"`after` leads back to {name!r}")
                todo += [other for other in after[name] if name not in seen]
                seen.add(name)

    def with_ports(self, servers: tuple[ServerSpec, ...]) -> tuple[ServerSpec, ...]:
        """Give ports to those that have none: 8000 and upwards. Raises for a port that two want.

        Several models of one Ollama server share its port; it has a usual one of its own.
        """
        taken: dict[int, ServerSpec] = {}
        for server in servers:
            other = taken.get(server.port or 0)
            if other is not None and {other.engine, server.engine} != {"ollama"}:
                words = f"wants port {server.port}, and so does [servers.{other.name}]"
                self.refuse(f"servers.{server.name}", "port", words, "Give each a port of its own.")
            if server.port:
                taken[server.port] = server
        free = iter(port for port in range(DEFAULT_PORT, 65536) if port not in taken)
        return tuple(
            replace(server, port=next(free)) if server.port is None and server.engine != "ollama" else server
            for server in servers
        )

    def place(self, text: str) -> Path:
        """Return a path of the file: relative to where the file lies."""
        return (self.path.absolute().parent / Path(text).expanduser()).absolute()

    def source(self, spec: str) -> str:
        """Return the source of a template with the path in it made absolute, where it names a file."""
        kind, colon, rest = spec.rpartition(":")
        place = self.place(rest)
        return f"{kind}{colon}{place}" if place.is_file() else spec

    def unknown(self, where: str, key: str, known: Any, inside: str | None = None) -> NoReturn:
        if key == "api_key":
            self.refuse(where, key, "holds an API key", "Keys stand in `api_key_file` or `api_key_env`.")
        close = difflib.get_close_matches(key, list(known), n=1)
        hint = f"Did you mean `{close[0]}`? " if close else ""
        what = f"`{inside}` names no server: {key!r}" if inside else f"has a key that nobody knows: `{key}`"
        self.refuse(where, inside or key, what, f"{hint}There are: {', '.join(known)}.")

    def refuse(self, where: str, key: str | None, what: str, hint: str | None = None) -> NoReturn:
        line = self.line(where, key)
        place = f"{self.path}, line {line}" if line else str(self.path)
        table = f" [{where}]" if where else ""
        raise BadInput(f"{place}:{table} {what}.", hint=hint or "`portside up --example` shows every key.")

    def line(self, where: str, key: str | None) -> int | None:
        """Return the number of the line that says `key` in the table `where`, else of its header."""
        header, wanted = None, re.sub(r"[\s\"']", "", f"[{where or key}]")
        for number, text in enumerate(self.lines, 1):
            stripped = re.sub(r"[\s\"']", "", text.partition("#")[0])
            if stripped.startswith("["):
                if stripped == wanted:
                    header = number
                elif header is not None:
                    break
            elif key is not None and (header or not where) and stripped.startswith(f"{key}="):
                return number
        return header
