"""llama.cpp's own Jinja, said with Python's: an environment with its filters, tests and operators.

What its language lacks is a syntax error, as there. Knows nothing of conversations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.nodes
import jinja2.sandbox
import jinja2.visitor

from .filters import character, filters, method
from .values import Undefined, Unpredictable, WatchedList, gone_through, is_in, joined, note, shown

__all__ = ["make_environment"]

_TESTS = frozenset(
    (
        *("boolean", "callable", "divisibleby", "defined", "eq", "equalto", "even", "false", "float", "ge"),
        *("greaterthan", "gt", "in", "integer", "iterable", "lessthan", "lower", "lt", "mapping", "ne"),
        *("none", "number", "odd", "sameas", "sequence", "string", "test", "true", "undefined", "upper"),
    )
)
_MISSING = (
    jinja2.nodes.Block,
    jinja2.nodes.Extends,
    jinja2.nodes.FloorDiv,
    jinja2.nodes.FromImport,
    jinja2.nodes.Import,
    jinja2.nodes.Include,
    jinja2.nodes.Pow,
    jinja2.nodes.With,
)
_JOIN, _IN, _LOOP = "texts joined", "one of", "gone through"
"""The filters that stand for `~`, `in` and what a loop goes through; no template can name them."""
_NOTHING = "portside_undefined"


class _Environment(jinja2.sandbox.SandboxedEnvironment):
    intercepted_binops = frozenset({"+", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and (isinstance(left, str) or isinstance(right, str)):
            return joined(left, right)
        if operator == "%" and not (isinstance(left, int) and isinstance(right, int)):
            raise jinja2.TemplateError("llama.cpp's % is for numbers only")
        if operator == "%" and (left < 0 or right < 0):
            raise Unpredictable("the template takes a remainder of negative numbers")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        found = method(self, obj, attribute)
        return super().getattr(obj, attribute) if found is None else found

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, str):
            return character(self, obj, argument)
        if isinstance(obj, jinja2.Undefined):
            return method(self, obj, str(argument))
        if isinstance(obj, WatchedList) and isinstance(argument, int):
            note(obj, "array")
        return super().getitem(obj, argument)

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        if source.startswith(("\n{%", "\n{#")):
            source = source[1:]  # a single line feed in front of the first block is not written
        if any(kind == "raw_begin" for _, kind, _ in self.lex(source)):
            raise jinja2.TemplateSyntaxError("llama.cpp's Jinja has no raw blocks", 1)
        template = super()._parse(source, name, filename)
        for node in template.find_all(_MISSING):
            raise jinja2.TemplateSyntaxError(f"llama.cpp's Jinja has no {type(node).__name__}", node.lineno)
        _refuse_lost_text(template)
        macros = {macro.name: macro for macro in template.find_all(jinja2.nodes.Macro)}
        changed: jinja2.nodes.Template = _Operators(macros).visit(template)
        return changed


def _refuse_lost_text(template: jinja2.nodes.Template) -> None:
    """Refuse what an `if` writes before it leaves the loop: llama.cpp loses it."""
    for branch in template.find_all(jinja2.nodes.If):
        for body in (branch.body, branch.else_):
            leaves = [any(True for _ in _leaving(node)) for node in body]
            if any(leaves) and any(map(_writes, body[: leaves.index(True)])):
                raise Unpredictable("the template writes something and leaves a loop right behind it")


def _leaving(node: jinja2.nodes.Node) -> Iterator[jinja2.nodes.Node]:
    kinds = (jinja2.nodes.Break, jinja2.nodes.Continue)
    return iter([node]) if isinstance(node, kinds) else node.find_all(kinds)


def _writes(node: jinja2.nodes.Node) -> bool:
    outputs = [node] if isinstance(node, jinja2.nodes.Output) else node.find_all(jinja2.nodes.Output)
    return not isinstance(node, jinja2.nodes.Macro | jinja2.nodes.AssignBlock) and any(True for _ in outputs)


def _of(node: jinja2.nodes.Node) -> jinja2.Environment:
    assert node.environment is not None  # every node that was parsed has one
    return node.environment


class _Operators(jinja2.visitor.NodeTransformer):
    """Makes filters of `~`, `in` and loops, which know fewer values, and hands arguments to macros."""

    def __init__(self, macros: Mapping[str, jinja2.nodes.Macro]) -> None:
        self._macros = macros

    def visit_For(self, node: jinja2.nodes.For) -> jinja2.nodes.For:  # noqa: N802 — jinja2's name
        self.generic_visit(node)
        node.iter = jinja2.nodes.Filter(node.iter, _LOOP, [], [], None, None, lineno=node.lineno)
        node.iter.set_environment(_of(node))
        return node

    def visit_Call(self, node: jinja2.nodes.Call) -> jinja2.nodes.Expr:  # noqa: N802 — jinja2's name
        """Give a macro what llama.cpp gives it.

        It gives a value to as many parameters as there are arguments, in their order. One named further
        behind is lost, and a parameter passed over is undefined, whatever its default.
        """
        self.generic_visit(node)
        macro = self._macros.get(node.node.name) if isinstance(node.node, jinja2.nodes.Name) else None
        if macro is None or not node.kwargs or node.dyn_args or node.dyn_kwargs:
            return node
        given = {keyword.key: keyword.value for keyword in node.kwargs}
        names = [parameter.name for parameter in macro.args][: len(node.args) + len(given)]
        missing = jinja2.nodes.Name(_NOTHING, "load", lineno=node.lineno)
        missing.set_environment(_of(node))
        values: list[jinja2.nodes.Expr] = [*node.args, *[missing] * len(given)]
        node.args = [given.get(name, value) for name, value in zip(names, values, strict=False)]
        node.kwargs = []
        return node

    def visit_Compare(self, node: jinja2.nodes.Compare) -> jinja2.nodes.Expr:  # noqa: N802 — jinja2's name
        self.generic_visit(node)
        if len(node.ops) != 1 or node.ops[0].op not in ("in", "notin"):
            return node
        found = jinja2.nodes.Filter(node.expr, _IN, [node.ops[0].expr], [], None, None, lineno=node.lineno)
        found.set_environment(_of(node))
        if node.ops[0].op == "in":
            return found
        negated = jinja2.nodes.Not(found, lineno=node.lineno)
        negated.set_environment(_of(node))
        return negated

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Expr:  # noqa: N802 — jinja2's name
        self.generic_visit(node)
        found = node.nodes[0]
        for other in node.nodes[1:]:
            found = jinja2.nodes.Filter(found, _JOIN, [other], [], None, None, lineno=node.lineno)
            found.set_environment(_of(node))
        return found


def make_environment(extensions: Sequence[Any]) -> jinja2.sandbox.SandboxedEnvironment:
    """Return an environment that renders as llama.cpp's Jinja does, without its globals."""
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=extensions, undefined=Undefined, finalize=shown
    )
    environment.filters = {**filters(environment.filters), _JOIN: joined, _IN: is_in, _LOOP: gone_through}
    signs = {"==", "!=", ">", ">=", "<", "<="}
    environment.tests = {name: test for name, test in environment.tests.items() if name in _TESTS | signs}
    environment.tests["string"] = _is_string
    return environment


def _is_string(value: Any) -> bool:
    note(value, "string")
    return isinstance(value, str)
