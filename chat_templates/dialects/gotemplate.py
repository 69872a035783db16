"""A small interpreter of Go's text/template, as much of it as Ollama's templates need.

Knows how Go 1.27 runs a template with the option missingkey=zero. Does not know Ollama's variables, nor
methods: values are strings, numbers, lists, maps and `Struct`s. Runs any text in bounded time and memory.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from chat_templates.dialects import gotemplate_nodes as nodes
from chat_templates.dialects.gotemplate_functions import FUNCTIONS, Function, functions_on
from chat_templates.dialects.gotemplate_lexer import failure
from chat_templates.dialects.gotemplate_parser import parse
from chat_templates.dialects.gotemplate_values import (
    NIL,
    Nil,
    Struct,
    display,
    from_bytes,
    kind,
    to_bytes,
    truth,
    type_name,
)

__all__ = ["GoTemplate", "Limits"]

_MISSING = object()
_KNOWN = frozenset(FUNCTIONS) | {"and", "or"}


@dataclass(frozen=True)
class Limits:
    """How much one execution may do."""

    steps: int = 2_000_000
    """Commands and nodes evaluated."""
    output: int = 16_000_000
    """Characters written or built by one function."""
    depth: int = 40
    """Templates invoked inside one another."""


class GoTemplate:
    """A parsed template. Raises `TemplateError` with the line where Go would refuse the text."""

    def __init__(self, text: str) -> None:
        self.trees = parse(text, _KNOWN).trees

    def identifiers(self) -> frozenset[str]:
        """Return the names of fields the template uses, as Ollama collects them (not inside chains)."""
        return frozenset(name for tree in self.trees.values() for name in nodes.identifiers(tree))

    def execute(self, data: Any, limits: Limits | None = None, today: datetime.date | None = None) -> str:
        """Return the output for `data`. Raises `TemplateError` where Go fails or a limit is reached."""
        run = _Run(self.trees, limits or Limits(), FUNCTIONS if today is None else functions_on(today))
        run.template("", data, 0)
        return from_bytes(b"".join(map(to_bytes, run.out)))


class _Jump(Exception):
    pass


class _Break(_Jump):
    pass


class _Continue(_Jump):
    pass


class _Run:
    """The output and the budget of one execution."""

    def __init__(
        self, trees: dict[str, tuple[nodes.Node, ...]], limits: Limits, functions: Mapping[str, Function]
    ) -> None:
        self.trees, self.limits, self.functions = trees, limits, functions
        self.out: list[str] = []
        self.written = self.steps = 0

    def template(self, name: str, data: Any, depth: int, line: int = 1) -> None:
        if name not in self.trees:
            raise failure(line, f"template {name!r} not defined")
        if depth > self.limits.depth:
            raise failure(line, f"more than {self.limits.depth} templates inside one another")
        _Scope(self, [("$", data)], depth).walk(self.trees[name], data)

    def step(self, line: int) -> None:
        self.steps += 1
        if self.steps > self.limits.steps:
            raise failure(line, f"more than {self.limits.steps} steps")

    def write(self, text: str, line: int) -> None:
        self.written += len(text)
        if self.written > self.limits.output:
            raise failure(line, f"more than {self.limits.output} characters of output")
        self.out.append(text)


class _Scope:
    """One template being executed: its variables, innermost last."""

    def __init__(self, run: _Run, variables: list[tuple[str, Any]], depth: int) -> None:
        self.run, self.variables, self.depth, self.line = run, variables, depth, 1

    def walk(self, tree: tuple[nodes.Node, ...], dot: Any) -> None:
        for node in tree:
            self.run.step(self.line)
            match node:
                case nodes.Text(text):
                    self.run.write(text, self.line)
                case nodes.Action(pipe):
                    value = self.pipe(pipe, dot)
                    if not pipe.declared:
                        self.run.write("<no value>" if value is None else display(value), self.line)
                case nodes.Branch():
                    mark = len(self.variables)
                    self.branch(node, dot)
                    del self.variables[mark:]
                case nodes.Invocation(line, name, pipe):
                    argument = self.pipe(pipe, dot) if pipe else None
                    self.run.template(name, argument, self.depth + 1, line)
                case nodes.Jump(keyword):
                    raise _Break if keyword == "break" else _Continue

    def branch(self, node: nodes.Branch, dot: Any) -> None:
        value = self.pipe(node.pipe, dot)
        if node.keyword == "range":
            self.loop(node, value, dot)
        elif truth(value):
            self.walk(node.body, value if node.keyword == "with" else dot)
        else:
            self.walk(node.otherwise, dot)

    def loop(self, node: nodes.Branch, value: Any, dot: Any) -> None:
        pairs = self.pairs(node, value)
        if not pairs:
            self.walk(node.otherwise, dot)
            return
        mark = len(self.variables)
        try:
            for index, element in pairs:
                self.run.step(self.line)
                item = NIL if element is None else element
                self.bind(node.pipe, mark, index, item)
                try:
                    self.walk(node.body, item)
                except _Continue:
                    pass
                finally:
                    del self.variables[mark:]
        except _Break:
            pass

    def pairs(self, node: nodes.Branch, value: Any) -> Any:
        """Return the (index, element) pairs of a range; empty for nothing to go through."""
        if value is None:
            return ()
        if isinstance(value, list):
            return list(enumerate(value))
        if isinstance(value, dict):
            return sorted(value.items())
        if kind(value) in ("int", "uint"):
            if len(node.pipe.declared) > 1:
                self.fail(f"can't use {value} to iterate over more than one variable")
            numbers = range(max(0, value))
            return zip(numbers, map(type(value), numbers), strict=True) if numbers else ()
        return self.fail(f"range can't iterate over {type_name(value)}")

    def bind(self, pipe: nodes.Pipe, mark: int, index: Any, item: Any) -> None:
        names = pipe.declared
        values = (index, item) if len(names) > 1 else (item,)
        for offset, (name, value) in enumerate(zip(names, values, strict=False)):
            if pipe.assigns:
                self.assign(name, value)
            else:
                self.variables[mark - len(names) + offset] = (name, value)

    def assign(self, name: str, value: Any) -> None:
        for index in range(len(self.variables) - 1, -1, -1):
            if self.variables[index][0] == name:
                self.variables[index] = (name, value)
                return
        self.fail(f"undefined variable: {name}")

    # pipelines

    def pipe(self, pipe: nodes.Pipe, dot: Any) -> Any:
        self.line = pipe.line
        value: Any = _MISSING
        for command in pipe.commands:
            self.run.step(pipe.line)
            value = self.command(command, dot, value)
            value = None if isinstance(value, Nil) else value
        for name in pipe.declared:
            if pipe.assigns:
                self.assign(name, value)
            else:
                self.variables.append((name, value))
        return value

    def command(self, command: nodes.Command, dot: Any, final: Any) -> Any:
        first, rest = command.args[0], command.args[1:]
        arguments = bool(rest) or final is not _MISSING
        match first:
            case nodes.Function(name):
                return self.call(name, rest, dot, final)
            case nodes.Field(names):
                return self.fields(dot, names, arguments)
            case nodes.Variable(name, names) if names:
                return self.fields(self.variable(name), names, arguments)
            case nodes.Chain(base, names):
                return self.fields(self.operand(base, dot), names, arguments)
            case nodes.NilLiteral():
                self.fail("nil is not a command")
        if arguments:
            self.fail("can't give argument to non-function")
        return self.operand(first, dot)

    def operand(self, operand: nodes.Operand, dot: Any) -> Any:  # noqa: PLR0911 - one return a node
        match operand:
            case nodes.Dot():
                return dot
            case nodes.NilLiteral():
                return None
            case nodes.Literal(value):
                return value
            case nodes.Field(names):
                return self.fields(dot, names, False)
            case nodes.Variable(name, names):
                return self.fields(self.variable(name), names, False)
            case nodes.Function(name):
                return self.call(name, (), dot, _MISSING)
            case nodes.Chain(base, names):
                return self.fields(self.operand(base, dot), names, False)
            case nodes.Pipe():
                return self.pipe(operand, dot)

    def variable(self, name: str) -> Any:
        for known, value in reversed(self.variables):
            if known == name:
                return value
        return self.fail(f"undefined variable: {name}")

    def fields(self, value: Any, names: tuple[str, ...], arguments: bool) -> Any:
        for index, name in enumerate(names):
            value = self.field(value, name, arguments and index == len(names) - 1)
        return value

    def field(self, value: Any, name: str, arguments: bool) -> Any:
        if value is None:
            return None
        if isinstance(value, Nil):
            self.fail(f"nil pointer evaluating interface {{}}.{name}")
        if isinstance(value, dict):
            if arguments:
                self.fail(f"{name} is not a method but has arguments")
            found = value.get(name)
            return NIL if found is None else found
        if isinstance(value, Struct) and name in value.fields:
            if arguments:
                self.fail(f"{name} has arguments but cannot be invoked as function")
            return value.fields[name]
        return self.fail(f"can't evaluate field {name} in type {type_name(value)}")

    def call(self, name: str, args: tuple[nodes.Operand, ...], dot: Any, final: Any) -> Any:
        given = len(args) + (final is not _MISSING)
        function, fewest, most = self.run.functions.get(name, (None, 1, None))
        if given < fewest or (most is not None and given > most):
            self.fail(f"wrong number of args for {name}: got {given}")
        if function is None:
            return self.either(name, args, dot, final)
        values = [self.operand(arg, dot) for arg in args] + ([] if final is _MISSING else [final])
        try:
            result = function(*(None if isinstance(value, Nil) else value for value in values))
        except ValueError as error:
            self.fail(f"error calling {name}: {error}")
        if isinstance(result, str) and len(result) > self.run.limits.output:
            self.fail(f"more than {self.run.limits.output} characters in one string")
        return result

    def either(self, name: str, args: tuple[nodes.Operand, ...], dot: Any, final: Any) -> Any:
        """`and` and `or`: the first operand that decides, unevaluated what follows."""
        value: Any = None
        for arg in args:
            value = self.operand(arg, dot)
            value = None if isinstance(value, Nil) else value
            if truth(value) == (name == "or"):
                return value
        return value if final is _MISSING else final

    def fail(self, what: str) -> NoReturn:
        raise failure(self.line, what)
