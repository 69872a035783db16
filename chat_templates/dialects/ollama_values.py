"""A tool's definition as Ollama hands it to a template: a struct of the fields that Ollama knows.

Knows which keys survive Ollama's reading of a request and in which order its JSON has them. Does not know
templates. Keys such as `default`, `minimum` or `additionalProperties` do not survive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chat_templates.dialects.gotemplate_values import JsonMap, JsonObject, Struct
from errors import TemplateError

__all__ = ["tool_value"]


def tool_value(tool: Mapping[str, Any]) -> Struct:
    """Return the Go value of one tool. Raises `TemplateError` for what Ollama would refuse."""
    function = _object(tool, "function")
    parameters = _object(function, "parameters")
    held = {
        "Type": parameters.get("type") or "",
        "Defs": parameters.get("$defs"),
        "Items": parameters.get("items"),
        "Required": list(parameters.get("required") or ()),
        "Properties": _properties(parameters),
    }
    described = {
        "Name": function.get("name") or "",
        "Description": function.get("description") or "",
        "Parameters": _struct(
            "templateToolFunctionParameters", held, {"$defs": "Defs"}, "Type", "Properties"
        ),
    }
    whole = {
        "Type": tool.get("type") or "",
        "Items": tool.get("items"),
        "Function": _struct("templateToolFunction", described, {}, *described),
    }
    return _struct("templateTool", whole, {}, "Type", "Function")


def _struct(name: str, fields: dict[str, Any], renamed: dict[str, str], *kept: str) -> Struct:
    """Return a struct; in its JSON the fields other than `kept` are left out when empty."""
    keys = {field: key for key, field in renamed.items()}
    shown = {field: value for field, value in fields.items() if value or field in kept}
    json = JsonObject({keys.get(field, field.lower()): value for field, value in shown.items()})
    return Struct(f"template.{name}", fields, json)


def _properties(parameters: Mapping[str, Any]) -> JsonMap | None:
    given = parameters.get("properties")
    if given is None:
        return None
    return JsonMap({name: _property(value) for name, value in _object(parameters, "properties").items()})


def _property(value: Any) -> Struct:
    if not isinstance(value, Mapping):
        raise TemplateError(f"A tool's parameter is {value!r}, not a JSON object.")
    nested = value.get("properties")
    kind = value.get("type")
    fields = {
        "AnyOf": [_property(one) for one in value.get("anyOf") or ()],
        "Type": kind[0] if isinstance(kind, list) and len(kind) == 1 else kind,
        "Items": value.get("items"),
        "Description": value.get("description") or "",
        "Enum": list(value.get("enum") or ()),
        "Properties": nested and JsonObject({key: _property(one) for key, one in nested.items()}),
    }
    return _struct("ToolProperty", fields, {"anyOf": "AnyOf"})


def _object(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key) or {}
    if not isinstance(found, Mapping):
        raise TemplateError(f"A tool's {key!r} is {found!r}, not a JSON object.")
    return found
