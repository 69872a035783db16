"""The XTuner template that a Python file defines or names: a templates file, a config, a run's copy of one.

Knows how XTuner's files spell templates: `PROMPT_TEMPLATE = ConfigDict(name=dict(...))`, `prompt_template =
PROMPT_TEMPLATE.qwen_chat`, and the text 'xtuner.utils.PROMPT_TEMPLATE.qwen_chat' of a dumped config. A file
is read with `python_values`, never run. Does not know what a template's fields mean.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chat_templates.jinja_engine import TEMPLATE_LIMIT
from chat_templates.sources.python_values import BadPython, Unreadable, module_values, parse_python, value_of
from chat_templates.sources.trainers import is_directory
from chat_templates.trainers import facts
from errors import TemplateError

__all__ = ["template_in"]

Named = tuple[str, Mapping[str, Any]]
"""A template's name and its fields."""


def template_in(what: str) -> Named:
    """Return the template in the run directory, `FILE.py` or `FILE.py#NAME`. Raises `TemplateError`."""
    path_text, _, name = what.partition("#")
    path = _python_file(Path(path_text))
    text = _read(path)
    try:
        tree = parse_python(text)
    except BadPython as error:
        raise TemplateError(f"{path} is not Python: {error}.") from error
    bundle = copy.deepcopy({key: dict(value) for key, value in facts("xtuner")["templates"].items()})
    xtuners = list(bundle.values())
    names = module_values(tree, _imports(bundle))
    defined = _defined(names, xtuners)
    if name:
        return _by_name(path, name, {**bundle, **defined})
    used = names["prompt_template"] if "prompt_template" in names else _argument(tree, names)
    if used is not None:
        return _used(path, used, {**bundle, **defined})
    if len(defined) == 1:
        return next(iter(defined.items()))
    if defined:
        raise TemplateError(
            f"{path} defines {len(defined)} templates and does not say which one was trained with.",
            hint=f"Name it: xtuner:{path}#NAME, with one of {_names(defined)}.",
        )
    raise TemplateError(
        f"{path} neither defines an XTuner template nor says `prompt_template = …`.",
        hint="If the file takes it from another one (read_base, _base_), name that file, or the template "
        "itself: xtuner:qwen_chat.",
    )


def _python_file(path: Path) -> Path:
    """Return `path`, or the one Python file in it."""
    if not is_directory(str(path)):
        return path
    found = sorted(path.glob("*.py"))
    if len(found) != 1:
        listed = f": {', '.join(file.name for file in found)}" if found else ""
        raise TemplateError(
            f"{path} has {len(found)} Python files{listed}; a run of XTuner leaves its one config there.",
            hint=f"Name the config: xtuner:{path}/CONFIG.py.",
        )
    return found[0]


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TemplateError(
            f"Cannot read {path}: {error.strerror or error}.", hint="Check the path."
        ) from error
    if len(data) > TEMPLATE_LIMIT * 4:
        raise TemplateError(f"{path} has {len(data):,} bytes: it is neither a config nor templates.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TemplateError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error


def _imports(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file may import from XTuner; both modules give the same objects, as XTuner's do."""
    shared = {"PROMPT_TEMPLATE": bundle, "SYSTEM_TEMPLATE": dict(facts("xtuner")["system_templates"])}
    modules = ("xtuner.utils", "xtuner.utils.templates")
    return {f"{module}.{name}": value for module in modules for name, value in shared.items()}


def _defined(names: Mapping[str, Any], imported: list[Any]) -> dict[str, Mapping[str, Any]]:
    """Return the templates that the file itself adds, by name: variables, and entries of dictionaries."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, value in names.items():
        if name == "prompt_template":
            continue
        entries = {name: value} if _is_template(value) else value
        for key, entry in entries.items() if isinstance(entries, dict) else ():
            if _is_template(entry) and not any(entry is one for one in imported):
                found[key] = entry
    return found


def _is_template(value: object) -> bool:
    return isinstance(value, dict) and "INSTRUCTION" in value


def _argument(tree: ast.Module, names: Mapping[str, Any]) -> Any:
    """Return what the file hands to `template_map_fn_factory` as template; None if it never does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            made_by = ast.dump(given["type"]) if "type" in given else ""
            if "template_map_fn_factory" in made_by and "template" in given:
                return value_of(given["template"], names)
    return None


def _by_name(path: Path, name: str, known: Mapping[str, Mapping[str, Any]]) -> Named:
    if name not in known:
        raise TemplateError(f"{path} has no XTuner template {name!r}.", hint=f"It has {_names(known)}.")
    return name, known[name]


def _used(path: Path, value: Any, known: Mapping[str, Mapping[str, Any]]) -> Named:
    """Return the template that a config uses: one of the known dictionaries, its path as text, or a dict."""
    if isinstance(value, Unreadable):
        raise TemplateError(
            f"The template in {path} is made by {value.what} in line {value.line}, and Portside reads the "
            "file without running it.",
            hint="Name the template itself, such as xtuner:qwen_chat, or a file that writes it out.",
        )
    if isinstance(value, str) and "PROMPT_TEMPLATE." in value:
        return _by_name(path, value.rpartition(".")[2], known)
    if _is_template(value):
        return next((name for name, fields in known.items() if fields is value), "prompt_template"), value
    raise TemplateError(f"prompt_template in {path} is not an XTuner template.", hint="It is a dict(…).")


def _names(names: Mapping[str, object]) -> str:
    """Return the names in words, those that XTuner does not have first."""
    return ", ".join(sorted(names, key=lambda name: (name in facts("xtuner")["templates"], name)))
