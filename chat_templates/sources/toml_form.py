"""A chat template's form as a TOML file: the bundled families, and files of the user's own.

Knows the schema (docs/template-toml.md is its page) and the placeholders {bos} and {eos}. Does not know
checkpoints: whoever loads a file says what the tokens are called.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_templates.dates import marked
from chat_templates.rounds import ROUND
from chat_templates.template import ChatTemplate, Markup
from chat_templates.thinking import STRIPS, Thinking, Thought
from errors import TemplateError, UsageError

__all__ = ["FormFile", "Tokens", "families", "family_aliases", "parse_form", "read_family", "read_form"]

Tokens = tuple[str | None, str | None]
"""A tokenizer's BOS and EOS; None for one that it does not have."""

_FAMILIES = Path(__file__).parent.parent / "families"
_MARKUP = {"prefix", "suffix"}
_THOUGHT = _MARKUP | {"strip", "strip_answer"}
_KEYS: Mapping[str, set[str]] = {
    "": {"name", "description", "aliases", "bos", "generation_prompt", "separator", "stop", "trim", "drop"}
    | {"user", "assistant", "system", "tool", "thinking", "tokens"},
    "user": _MARKUP | {"last"},
    "assistant": _MARKUP,
    "tool": _MARKUP,
    "system": _MARKUP | {"placement", "default", "missing", "empty", "empty_text"},
    "thinking": {"open", "close", "strip_history", "strip_after", "strip_current"}
    | {"prefix", "on", "off", "past", "current"},
    "thinking.past": _THOUGHT,
    "thinking.current": _THOUGHT,
    "tokens": {"bos", "eos"},
}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "placement": ("own_turn", "first_user", "last_user"),
    "empty": ("block", "absent"),
    "strip_after": STRIPS,
    "strip": STRIPS,
    "strip_answer": STRIPS,
}
_SWITCHES = ("strip_history", "strip_current")
_LISTS = ("aliases", "stop", "trim", "drop")
_ROLES = ("system", "user", "assistant", "tool")
_DATE = re.compile(r"\{date:([^{}]+)\}")
_SCHEMA = "docs/template-toml.md describes the file on one page."


@dataclass(frozen=True)
class FormFile:
    """One TOML file, read and checked: the form with {bos} and {eos} replaced."""

    form: ChatTemplate
    description: str
    bos_token: str | None
    eos_token: str | None


def families() -> tuple[str, ...]:
    """Return the names of the bundled families."""
    return tuple(sorted(path.stem for path in _FAMILIES.glob("*.toml")))


@functools.cache
def family_aliases() -> Mapping[str, str]:
    """Return the other names of the bundled families: alias -> family."""
    found: dict[str, str] = {}
    for name in families():
        data = tomllib.loads((_FAMILIES / f"{name}.toml").read_text(encoding="utf-8"))
        found |= dict.fromkeys(data.get("aliases", ()), name)
    return found


def read_family(name: str, tokens: Tokens | None = None) -> FormFile:
    """Return the bundled family `name`, or the one with that alias. Raises `UsageError` with the nearest
    names.
    """
    name = name if name in families() else family_aliases().get(name, name)
    if name not in families():
        near = difflib.get_close_matches(name.lower(), (*families(), *family_aliases()), n=1, cutoff=0.4)
        meant = f"Did you mean family:{near[0]}? " if near else ""
        raise UsageError(
            f"There is no chat template family {name!r}.",
            hint=f"{meant}The families are {', '.join(families())}.",
        )
    return read_form(_FAMILIES / f"{name}.toml", tokens)


def read_form(path: Path, tokens: Tokens | None = None) -> FormFile:
    """Return the form in the TOML file `path`. Raises `TemplateError`.

    `tokens` replace {bos} and {eos}; without them the file's own `[tokens]` do.
    """
    try:
        data = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise TemplateError(f"Cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise TemplateError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    except tomllib.TOMLDecodeError as error:
        raise TemplateError(f"{path} is not valid TOML: {error}.", hint=_SCHEMA) from error
    return parse_form(data, str(path), name=path.stem, tokens=tokens)


def parse_form(data: Mapping[str, Any], where: str, *, name: str, tokens: Tokens | None = None) -> FormFile:
    """Return the form that the parsed TOML `data` describes; `where` is for messages."""
    reader = _Reader(data, where)
    own = reader.table("tokens") or {}
    bos, eos = tokens if tokens is not None else (own.get("bos"), own.get("eos"))
    reader.tokens = {"{bos}": bos or "", "{eos}": eos}
    if not reader.table("user") or not reader.table("assistant"):
        raise TemplateError(f"{where} needs the tables [user] and [assistant].", hint=_SCHEMA)
    system = reader.table("system")
    thinking = reader.table("thinking")
    form = ChatTemplate(
        name=reader.text(data, "name", name),
        user=reader.question(),
        assistant=reader.markup("assistant") or Markup(),
        generation_prompt=reader.text(data, "generation_prompt", ""),
        system=reader.markup("system"),
        tool=reader.markup("tool"),
        bos=reader.text(data, "bos", ""),
        system_placement=(system or {}).get("placement", "own_turn"),
        default_system=reader.optional(system, "default"),
        no_system=reader.text(system or {}, "missing", ""),
        empty_system=(system or {}).get("empty", "block"),
        empty_text=reader.optional(system, "empty_text"),
        separator=reader.text(data, "separator", ""),
        last_question=reader.text(reader.table("user") or {}, "last", ""),
        trimmed=frozenset(reader.texts(data, "trim", _ROLES)),
        dropped=frozenset(reader.texts(data, "drop", _ROLES)),
        thinking=None if thinking is None else reader.thinking(thinking),
        stop=reader.texts(data, "stop"),
    )
    return FormFile(
        form, reader.text(data, "description", ""), reader.tokens["{bos}"], reader.tokens["{eos}"]
    )


class _Reader:
    """Takes checked values out of one file; every complaint names the file and the key."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self._data, self._where = data, where
        self.tokens: dict[str, str | None] = {}
        self._check("", data)

    def _check(self, table: str, values: object) -> None:
        at = f"[{table}] of {self._where}" if table else self._where
        if not isinstance(values, Mapping):
            raise TemplateError(f"{at} must be a table.", hint=_SCHEMA)
        for key, value in values.items():
            if key not in _KEYS[table]:
                near = difflib.get_close_matches(key, _KEYS[table], n=1)
                meant = f"Did you mean {near[0]!r}? " if near else ""
                raise TemplateError(f"{at} has the unknown key {key!r}.", hint=meant + _SCHEMA)
            if key in _CHOICES and value not in _CHOICES[key]:
                raise TemplateError(f"{key!r} in {at} must be one of {', '.join(_CHOICES[key])}.")
            inner = f"{table}.{key}" if table else key
            if inner in _KEYS:
                self._check(inner, value)
            else:
                self._check_type(at, key, value)

    def _check_type(self, at: str, key: str, value: object) -> None:
        wanted: type = list if key in _LISTS else bool if key in _SWITCHES else str
        if not isinstance(value, wanted) or (
            isinstance(value, list) and not all(isinstance(item, str) for item in value)
        ):
            words = {list: "a list of texts", bool: "true or false", str: "a text"}[wanted]
            raise TemplateError(f"{key!r} in {at} must be {words}.", hint=_SCHEMA)

    def table(self, name: str) -> Mapping[str, Any] | None:
        return self._data.get(name)

    def markup(self, name: str) -> Markup | None:
        table = self.table(name)
        if table is None:
            return None
        return Markup(self.text(table, "prefix", ""), self.text(table, "suffix", ""))

    def thinking(self, table: Mapping[str, Any]) -> Thinking:
        thoughts = {key: self._thought(table[key]) for key in ("past", "current") if key in table}
        texts = {key: self._filled(value) for key, value in table.items() if isinstance(value, str)}
        switches = {key: table[key] for key in _SWITCHES if key in table}
        return Thinking(**texts, **switches, **thoughts)  # type: ignore[arg-type]

    def _thought(self, table: Mapping[str, Any]) -> Thought:
        strips = {key: table[key] for key in ("strip", "strip_answer") if key in table}
        return Thought(self.text(table, "prefix", ""), self.text(table, "suffix", ""), **strips)

    def question(self) -> Markup:
        markup = self.markup("user") or Markup()
        return Markup(markup.prefix.replace("{round}", ROUND), markup.suffix)

    def text(self, table: Mapping[str, Any], key: str, default: str) -> str:
        return self._filled(table.get(key, default))

    def optional(self, table: Mapping[str, Any] | None, key: str) -> str | None:
        value = None if table is None else table.get(key)
        return None if value is None else self._filled(value)

    def texts(self, table: Mapping[str, Any], key: str, choices: tuple[str, ...] = ()) -> tuple[str, ...]:
        values = tuple(self._filled(value) for value in table.get(key, ()))
        wrong = [value for value in values if choices and value not in choices]
        if wrong:
            raise TemplateError(f"{key!r} in {self._where} may hold {', '.join(choices)}, not {wrong[0]!r}.")
        return values

    def _filled(self, text: str) -> str:
        for placeholder, token in self.tokens.items():
            if placeholder not in text:
                continue
            if token is None:
                raise TemplateError(
                    f"{self._where} needs the name of the {placeholder} token.",
                    hint="Use it with a checkpoint whose tokenizer has one, or give it under [tokens].",
                )
            text = text.replace(placeholder, token)
        return _DATE.sub(lambda found: marked(found[1]), text)
