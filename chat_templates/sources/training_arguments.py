"""The few training arguments that decide LLaMA-Factory's training text, out of a YAML or JSON file.

Knows YAML as far as these files use it: one `key: value` a line at the top. What a value of interest says in
any other way is refused, never guessed; all other lines are passed over. Knows no template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_templates.jinja_engine import TEMPLATE_LIMIT
from errors import TemplateError

__all__ = ["Arguments", "read_arguments", "read_run"]

SUFFIXES = (".yaml", ".yml", ".json")
_KEYS: Mapping[str, tuple[type, ...]] = {
    "template": (str, type(None)),
    "default_system": (str, type(None)),
    "enable_thinking": (bool, type(None)),
    "mask_history": (bool,),
    "preserve_thinking": (bool,),
}
_LINE = re.compile(r"""(?P<quote>["']?)(?P<key>[A-Za-z_][\w.-]*)(?P=quote)\s*:(?:[ \t]+(?P<value>.*))?\Z""")
_DOUBLE = re.compile(r'("(?:[^"\\]|\\.)*")\s*(?:#.*)?\Z')
_SINGLE = re.compile(r"'((?:[^']|'')*)'\s*(?:#.*)?\Z")
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null"), None),
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}
_WRITE_PLAINLY = 'Write it on one line, in double quotes: default_system: "…".'


@dataclass(frozen=True)
class Arguments:
    """The arguments of one training run, with LLaMA-Factory's defaults."""

    template: str
    default_system: str | None = None
    """None: the template's own."""
    enable_thinking: bool | None = True
    mask_history: bool = False
    preserve_thinking: bool = False


def read_run(directory: Path) -> Path:
    """Return the file in a run's `directory` that holds its training arguments. Raises `TemplateError`."""
    own = directory / "training_args.yaml"
    if own.is_file():
        return own
    files = [file for suffix in SUFFIXES[:2] for file in sorted(directory.glob(f"*{suffix}"))]
    found = [file for file in files if file.name != "llamaboard_config.yaml" and "template" in _values(file)]
    if len(found) == 1:
        return found[0]
    listed = f": {', '.join(file.name for file in found)}" if found else ""
    raise TemplateError(
        f"{directory} has {len(found)} files of training arguments with a `template`{listed}.",
        hint="Name the YAML the model was trained with, llamafactory:FILE.yaml, or its template, "
        "llamafactory:NAME. A chat_template.jinja found there is usually the base model's.",
    )


def read_arguments(path: Path) -> Arguments:
    """Return the arguments in the YAML or JSON file `path`. Raises `TemplateError`."""
    values = _values(path)
    for key, value in values.items():
        if not isinstance(value, _KEYS[key]):
            raise TemplateError(f"{key!r} in {path} cannot be {repr(value)[:60]}.")
    if values.get("template") is None:
        raise TemplateError(
            f"{path} names no `template`: LLaMA-Factory then made one from the base model's chat template.",
            hint="Use that one: --template checkpoint, if the checkpoint still has it.",
        )
    return Arguments(**values)


def _values(path: Path) -> dict[str, Any]:
    text = _read(path)
    if path.suffix == ".json":
        return _from_json(path, text)
    values: dict[str, Any] = {}
    for number, key, value in _entries(text):
        if key in values:
            raise TemplateError(f"{path} has {key!r} twice, again in line {number}.")
        values[key] = _scalar(value, f"{key!r} in line {number} of {path}")
    return values


def _from_json(path: Path, text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TemplateError(f"{path} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise TemplateError(f"{path} is not a JSON object.")
    return {key: value for key, value in values.items() if key in _KEYS}


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        if len(data) > TEMPLATE_LIMIT:
            raise TemplateError(f"{path} has {len(data):,} bytes: these are no training arguments.")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise TemplateError(
            f"Cannot read {path}: {error.strerror or error}.", hint="Check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise TemplateError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error


def _entries(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line number, key and value's text of the keys of interest; a value that goes on is marked."""
    lines = [line.rstrip() for line in text.split("\n")]
    for index, line in enumerate(lines):
        match = _LINE.match(line)
        if match is None or match["key"] not in _KEYS:
            continue
        rest = (later for later in lines[index + 1 :] if later and not later.lstrip().startswith("#"))
        goes_on = next(rest, "").startswith((" ", "\t", "- "))
        yield index + 1, match["key"], "|" if goes_on else (match["value"] or "").strip()


def _scalar(text: str, where: str) -> str | bool | None:
    """Return the value of a YAML scalar on one line."""
    if double := _DOUBLE.match(text):
        try:
            return str(json.loads(double[1]))
        except ValueError as error:
            raise TemplateError(f"{where} cannot be read: {error}.", hint=_WRITE_PLAINLY) from error
    if single := _SINGLE.match(text):
        return single[1].replace("''", "'")
    plain = re.sub(r"(?:\A|[ \t]+)#.*", "", text).strip()
    if plain.startswith(tuple("\"'|>&*!%@`[]{},?")) or ": " in plain or plain.endswith(":"):
        raise TemplateError(f"{where} is written in a way that is not read here.", hint=_WRITE_PLAINLY)
    return _WORDS.get(plain.lower(), plain)
