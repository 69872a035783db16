"""The syntax tree of a Go template, as plain frozen dataclasses. Knows no behaviour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Action",
    "Branch",
    "Chain",
    "Command",
    "Dot",
    "Field",
    "Function",
    "Invocation",
    "Jump",
    "Literal",
    "NilLiteral",
    "Node",
    "Operand",
    "Pipe",
    "Text",
    "Variable",
    "identifiers",
]


@dataclass(frozen=True)
class Dot:
    """`.`"""


@dataclass(frozen=True)
class NilLiteral:
    """`nil`"""


@dataclass(frozen=True)
class Literal:
    """A string, number or boolean."""

    value: Any


@dataclass(frozen=True)
class Field:
    """`.A.B`"""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Variable:
    """`$x.A.B`; the name carries its `$`."""

    name: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Function:
    """The name of a function."""

    name: str


@dataclass(frozen=True)
class Chain:
    """`(pipeline).A.B`"""

    base: Operand
    names: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """A function with arguments, or a single operand."""

    args: tuple[Operand, ...]


@dataclass(frozen=True)
class Pipe:
    """`$declared, $variables := command | command`"""

    line: int
    commands: tuple[Command, ...]
    declared: tuple[str, ...] = ()
    assigns: bool = False


Operand = Dot | NilLiteral | Literal | Field | Variable | Function | Chain | Pipe


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Action:
    """`{{ pipeline }}`"""

    pipe: Pipe


@dataclass(frozen=True)
class Branch:
    """`if`, `with` or `range`, named by `keyword`."""

    keyword: str
    pipe: Pipe
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Invocation:
    """`{{ template "name" pipeline }}`"""

    line: int
    name: str
    pipe: Pipe | None


@dataclass(frozen=True)
class Jump:
    """`break` or `continue`"""

    keyword: str


Node = Text | Action | Branch | Invocation | Jump


def identifiers(nodes: tuple[Node, ...]) -> Iterator[str]:
    """Yield the field and variable names Ollama looks at to tell what a template uses.

    Like Ollama's own walk it does not look inside `(…).Field` chains.
    """
    for node in nodes:
        if isinstance(node, Action | Branch | Invocation) and node.pipe is not None:
            yield from _in_pipe(node.pipe)
        if isinstance(node, Branch):
            yield from identifiers(node.body + node.otherwise)


def _in_pipe(pipe: Pipe) -> Iterator[str]:
    for command in pipe.commands:
        for arg in command.args:
            if isinstance(arg, Field | Variable):
                yield from arg.names
            elif isinstance(arg, Pipe):
                yield from _in_pipe(arg)
