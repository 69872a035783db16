"""Write the trainers' data files anew from their wheels: `python -m chat_templates.trainers.refresh`.

Knows where XTuner and LLaMA-Factory keep their templates. The wheels are read by syntax tree: nothing of them
is imported or run. Does not know what the facts mean.
"""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chat_templates.sources.python_values import module_values, parse_python, value_of
from checkpoint.wheel import Wheel
from files import write_text

__all__ = ["LLAMAFACTORY", "XTUNER", "llamafactory_toml", "xtuner_toml"]

XTUNER = Wheel(
    "xtuner==0.2.0",
    "xtuner-0.2.0-py3-none-any.whl",
    "5b59e7e194d78579c3d00a9a68ea7195472869d7a4601d692ce200224ac86443",
)
LLAMAFACTORY = Wheel(
    "llamafactory==0.9.5",
    "llamafactory-0.9.5-py3-none-any.whl",
    "10776e9b259798bf65f6c5343f6298f0302e92e9cd47472abe29eef69e286c6a",
)
_CLASSES = {
    "Template": "plain",
    "ReasoningTemplate": "reasoning",
    "Llama2Template": "llama2",
    "Glm47ReasoningTemplate": "glm47",
}
_SLOTS = {key: f"format_{key}" for key in ("prefix", "system", "user", "assistant")}
_PLAIN = (
    "default_system",
    "stop_words",
    "thought_words",
    "efficient_eos",
    "replace_eos",
    "replace_jinja_template",
)
_TOKENS = {"bos_token": "{bos}", "eos_token": "{eos}"}
_HEAD = """\
# {what}
# Facts read from the wheel by `python -m chat_templates.trainers.refresh`; do not edit by hand.
"""


def xtuner_toml() -> str:
    """Return the data file of XTuner's PROMPT_TEMPLATE and SYSTEM_TEMPLATE, field by field."""
    values = module_values(_tree(XTUNER, "xtuner/utils/templates.py"), {})
    out = [_HEAD.format(what="XTuner 0.2.0: the fields of its chat templates, as it names them.")]
    for name, fields in values["PROMPT_TEMPLATE"].items():
        out += _table(f"templates.{name}", fields)
    out += _table("system_templates", values["SYSTEM_TEMPLATE"])
    return "\n".join(out) + "\n"


def llamafactory_toml() -> str:
    """Return the data file of LLaMA-Factory's registered templates.

    Slots are joined to one text with {bos}, {eos} and {content} in it; what a registration leaves out is
    left out.
    """
    out = [_HEAD.format(what="LLaMA-Factory 0.9.5: the slots of its registered chat templates.")]
    for call in _registrations():
        given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        fields: dict[str, Any] = {"class": _class_of(given)}
        fields |= {key: _slots(given[name]) for key, name in _SLOTS.items() if name in given}
        fields |= {key: value_of(given[key], {}) for key in _PLAIN if key in given}
        if fields["class"] == "plain":
            del fields["class"]
        out += _table(json.dumps(value_of(given["name"], {})), fields)
    return "\n".join(out) + "\n"


def _tree(wheel: Wheel, member: str) -> ast.Module:
    with zipfile.ZipFile(wheel.fetch()) as archive:
        return parse_python(archive.read(member).decode("utf-8"))


def _registrations() -> Iterator[ast.Call]:
    for statement in _tree(LLAMAFACTORY, "llamafactory/data/template.py").body:
        match statement:
            case ast.Expr(value=ast.Call(func=ast.Name(id="register_template")) as call):
                yield call


def _class_of(given: Mapping[str, ast.expr]) -> str:
    named = given.get("template_class")
    return _CLASSES[named.id] if isinstance(named, ast.Name) else "plain"


def _slots(formatter: ast.expr) -> str:
    """Return the slots of `StringFormatter(slots=[...])` as one text; a set that names neither BOS nor EOS
    writes nothing."""
    match formatter:
        case ast.Call(keywords=[ast.keyword(arg="slots", value=slots)]):
            return "".join(_slot(slot) for slot in value_of(slots, {}))
    raise ValueError(f"line {formatter.lineno} of template.py is of a new kind")


def _slot(slot: str | Mapping[str, str] | frozenset[str]) -> str:
    if isinstance(slot, frozenset):
        return next((text for token, text in _TOKENS.items() if token in slot), "")
    text = slot if isinstance(slot, str) else slot["token"]
    if any(placeholder in text.replace("{{content}}", "") for placeholder in ("{bos}", "{eos}", "{content}")):
        raise ValueError(f"{text!r} holds a placeholder of the data file")
    return text.replace("{{content}}", "{content}")


def _table(name: str, fields: Mapping[str, Any]) -> list[str]:
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return [f"[{name}]", *lines, ""]


def _main() -> None:
    write_text(Path(__file__).with_name("xtuner.toml"), xtuner_toml())
    write_text(Path(__file__).with_name("llamafactory.toml"), llamafactory_toml())


if __name__ == "__main__":
    _main()
