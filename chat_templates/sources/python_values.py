"""The plain values that a Python file assigns, read from its syntax tree: nothing is ever executed.

Knows literals, `dict(...)`, names, attributes, keys, and texts put together with + or side by side. Whatever
else a file computes is an `Unreadable` that says where and what. Knows nothing about chat templates.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["BadPython", "Unreadable", "module_values", "parse_python", "value_of"]

DICTS = ("dict", "ConfigDict", "Config")
"""Callables that make a mapping of their keywords."""
TEXT_LIMIT = 1 << 20
"""Characters that one text may have: doubling a text line by line must not fill the memory."""


class BadPython(Exception):
    """The text is not Python; the message says why and where."""


@dataclass(frozen=True)
class Unreadable:
    """A value that only running the file would give."""

    line: int
    what: str


class _NotPlain(Exception):
    def __init__(self, value: Unreadable) -> None:
        self.value = value


def parse_python(text: str) -> ast.Module:
    """Return the syntax tree of `text`. Raises `BadPython`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as a regular expression's backslashes
            return ast.parse(text)
    except SyntaxError as error:
        raise BadPython(f"{error.msg} in line {error.lineno}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise BadPython(str(error) or "it is nested too deeply") from error


def module_values(tree: ast.Module, imported: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the module's own assignments give its names, in their order.

    `imported` holds values by the full name they are imported under, such as `package.module.NAME`.
    A name that is assigned inside an `if`, a loop or the like is unreadable.
    """
    names: dict[str, Any] = {}
    for statement in tree.body:
        try:
            _run(statement, names, imported)
        except RecursionError:
            _forget(statement, names)
    return names


def value_of(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Return the value of an expression, `Unreadable` where it is not plain."""
    try:
        return _value(node, names)
    except _NotPlain as problem:
        return problem.value
    except RecursionError:
        return Unreadable(node.lineno, "an expression nested too deeply")


def _run(statement: ast.stmt, names: dict[str, Any], imported: Mapping[str, Any]) -> None:
    match statement:
        case ast.ImportFrom(module=str(module), names=aliases, level=0):
            _import(module, aliases, names, imported)
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                _assign(target, value_of(value, names), names)
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            _assign(target, value_of(value, names), names)
        case ast.AugAssign(target=ast.Name(id=name, ctx=context), op=operator, value=value):
            left = ast.copy_location(ast.Name(name, ast.Load()), statement)
            whole = ast.copy_location(ast.BinOp(left, operator, value), statement)
            del context
            names[name] = value_of(whole, names)
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=owner, attr="update")) as call):
            target = value_of(owner, names)
            added = _updates(call, names)
            if isinstance(target, dict) and isinstance(added, dict):
                target.update(added)
            else:
                _forget(statement, names)
        case _:
            _forget(statement, names)


def _updates(call: ast.Call, names: Mapping[str, Any]) -> Any:
    """Return the mapping that an `update(...)` call adds."""
    try:
        return _mapping(call, names)
    except _NotPlain as problem:
        return problem.value


def _import(
    module: str, aliases: list[ast.alias], names: dict[str, Any], imported: Mapping[str, Any]
) -> None:
    for alias in aliases:
        if alias.name == "*":
            found = {key.rpartition(".")[2]: v for key, v in imported.items() if key.startswith(module + ".")}
            names.update(found)
        elif f"{module}.{alias.name}" in imported:
            names[alias.asname or alias.name] = imported[f"{module}.{alias.name}"]
        else:
            names.pop(alias.asname or alias.name, None)


def _assign(target: ast.expr, value: Any, names: dict[str, Any]) -> None:
    if isinstance(target, ast.Name):
        names[target.id] = value
    elif isinstance(target, ast.Attribute | ast.Subscript):
        owner = value_of(target.value, names)
        key = target.attr if isinstance(target, ast.Attribute) else value_of(target.slice, names)
        if isinstance(owner, dict) and isinstance(key, str):
            owner[key] = value
    else:
        _forget_names(target, names)


def _forget(statement: ast.stmt, names: dict[str, Any]) -> None:
    """Make every name that a statement may change unreadable, rather than keep an old value."""
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import):
        _forget_names(statement, names)


def _forget_names(node: ast.AST, names: dict[str, Any]) -> None:
    for part in ast.walk(node):
        stored = isinstance(part, ast.Name | ast.Attribute | ast.Subscript) and isinstance(
            part.ctx, ast.Store | ast.Del
        )
        updated = isinstance(part, ast.Attribute) and part.attr in ("update", "pop", "setdefault", "clear")
        if stored or updated:
            root: ast.AST = part
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if isinstance(root, ast.Name):
                names[root.id] = Unreadable(root.lineno, "a statement that would have to be run")


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=str() | bool() | int() | float() | None as value):
            return value
        case ast.Name(id=name) if name in names:
            return _plain(names[name])
        case ast.Attribute(value=owner, attr=key):
            return _looked_up(node, owner, key, names)
        case ast.Subscript(value=owner, slice=ast.expr() as index):
            return _looked_up(node, owner, _value(index, names), names)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _joined(node, _value(left, names), _value(right, names))
    return _container(node, names)


def _container(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_value(element, names) for element in elements]
        case ast.Set(elts=elements) if all(isinstance(element, ast.Constant) for element in elements):
            return frozenset(_value(element, names) for element in elements)
        case ast.Dict():
            return _literal_dict(node, names)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in DICTS:
            return _mapping(node, names)
    raise _NotPlain(Unreadable(node.lineno, _excerpt(node)))


def _plain(value: Any) -> Any:
    if isinstance(value, Unreadable):
        raise _NotPlain(value)
    return value


def _looked_up(node: ast.expr, owner: ast.expr, key: object, names: Mapping[str, Any]) -> Any:
    container = _value(owner, names)
    if isinstance(container, dict) and isinstance(key, str) and key in container:
        return _plain(container[key])
    raise _NotPlain(Unreadable(node.lineno, _excerpt(node)))


def _joined(node: ast.expr, left: object, right: object) -> str:
    if isinstance(left, str) and isinstance(right, str) and len(left) + len(right) <= TEXT_LIMIT:
        return left + right
    raise _NotPlain(Unreadable(node.lineno, _excerpt(node)))


def _literal_dict(node: ast.Dict, names: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if key is None:
            found.update(_as_dict(value, names))
        else:
            found[str(_value(key, names))] = value_of(value, names)
    return found


def _mapping(call: ast.Call, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `dict(...)` makes of its arguments; values that cannot be read stand in it as such."""
    found: dict[str, Any] = {}
    for argument in call.args:
        found.update(_as_dict(argument, names))
    for keyword in call.keywords:
        if keyword.arg is None:
            found.update(_as_dict(keyword.value, names))
        else:
            found[keyword.arg] = value_of(keyword.value, names)
    return found


def _as_dict(node: ast.expr, names: Mapping[str, Any]) -> dict[str, Any]:
    value = _value(node, names)
    if isinstance(value, dict):
        return value
    raise _NotPlain(Unreadable(node.lineno, _excerpt(node)))


def _excerpt(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return f"the name {name}"
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return f"a call of {name}()"
        case ast.Attribute(attr=name):
            return f"the attribute {name}"
        case ast.JoinedStr():
            return "an f-string"
    return "an expression"
