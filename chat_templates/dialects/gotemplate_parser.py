"""The grammar of Go templates: tokens to a syntax tree.

Knows what text/template accepts when it parses, undefined variables and functions included. Does not
know what anything means when it runs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from chat_templates.dialects import gotemplate_nodes as nodes
from chat_templates.dialects.gotemplate_lexer import Token, failure, literal, tokens, unquote

__all__ = ["ParsedTemplate", "parse"]

_NESTING = 80
_STARTS_OPERAND = frozenset(
    ("bool", "character", "dot", "field", "word", "number", "nil", "string", "variable", "(")
)


@dataclass(frozen=True)
class ParsedTemplate:
    """The named templates of one text; the main one is called ''."""

    trees: dict[str, tuple[nodes.Node, ...]]


def parse(text: str, functions: Collection[str]) -> ParsedTemplate:
    """Return the syntax tree of `text`. Raises `TemplateError` with the line where Go would fail."""
    parser = _Parser(list(tokens(text)), functions)
    parser.define("", parser.main())
    return ParsedTemplate(parser.trees)


class _Parser:
    def __init__(self, stream: list[Token], functions: Collection[str]) -> None:
        self.stream, self.index, self.functions = stream, 0, functions
        self.trees: dict[str, tuple[nodes.Node, ...]] = {}
        self.variables = ["$"]
        self.ranges = self.depth = 0

    # tokens

    def peek(self, *, spaces: bool = False) -> Token:
        index = self.index
        while not spaces and self.stream[index].kind == "space":
            index += 1
        return self.stream[index]

    def next(self, *, spaces: bool = False) -> Token:
        while not spaces and self.stream[self.index].kind == "space":
            self.index += 1
        token = self.stream[self.index]
        self.index = min(self.index + 1, len(self.stream) - 1)
        return token

    def expect(self, kind: str, where: str) -> Token:
        token = self.next()
        if token.kind != kind:
            raise self.unexpected(token, where)
        return token

    @staticmethod
    def unexpected(token: Token, where: str) -> Exception:
        return failure(token.line, f"unexpected {token.value or token.kind!r} in {where}")

    # lists of nodes

    def main(self) -> tuple[nodes.Node, ...]:
        found: list[nodes.Node] = []
        while self.peek(spaces=True).kind != "end":
            token = self.next(spaces=True)
            if token.kind == "text":
                found.append(nodes.Text(token.value))
            elif self.peek().value == "define" and self.peek().kind == "keyword":
                self.next()
                self.definition(self.name("define clause"), self.expect("}}", "define clause"))
            else:
                node = self.action()
                if isinstance(node, Token):
                    raise self.unexpected(node, "input")
                found.append(node)
        return tuple(found)

    def items(self) -> tuple[tuple[nodes.Node, ...], Token]:
        """Return the nodes up to an `end` or `else`, and that token."""
        found: list[nodes.Node] = []
        self.depth += 1
        if self.depth > _NESTING:
            raise failure(self.peek().line, f"more than {_NESTING} nested blocks")
        while True:
            token = self.next(spaces=True)
            if token.kind == "end":
                raise failure(token.line, "unexpected end of the template, an {{ end }} is missing")
            node = nodes.Text(token.value) if token.kind == "text" else self.action()
            if isinstance(node, Token):
                self.depth -= 1
                return tuple(found), node
            found.append(node)

    def definition(self, name: str, start: Token) -> None:
        outer = self.variables, self.ranges
        self.variables, self.ranges = ["$"], 0
        body, end = self.items()
        self.variables, self.ranges = outer
        if end.value != "end":
            raise failure(start.line, f"unexpected {{{{ else }}}} in template {name!r}")
        self.define(name, body)

    def define(self, name: str, body: tuple[nodes.Node, ...]) -> None:
        if name not in self.trees or _blank(self.trees[name]):
            self.trees[name] = body
        elif not _blank(body):
            raise failure(self.peek().line, f"multiple definition of template {name!r}")

    # actions

    def action(self) -> nodes.Node | Token:
        """Parse what follows {{; `end` and `else` are returned as their token."""
        token = self.peek()
        if token.kind != "keyword":
            return nodes.Action(self.pipeline("command"))
        self.next()
        if token.value in ("if", "with", "range"):
            return self.control(token.value)
        if token.value in ("break", "continue"):
            self.expect("}}", token.value)
            if not self.ranges:
                raise failure(token.line, f"{{{{{token.value}}}}} outside {{{{range}}}}")
            return nodes.Jump(token.value)
        if token.value == "template":
            return self.invocation(token)
        if token.value == "block":
            name, pipe = self.name("block clause"), self.pipeline("block clause")
            self.definition(name, token)
            return nodes.Invocation(token.line, name, pipe)
        if token.value == "end":
            self.expect("}}", "end")
        elif token.value == "else":
            if self.peek().kind != "keyword" or self.peek().value not in ("if", "with"):
                self.expect("}}", "else")
        else:
            raise self.unexpected(token, "input")
        return token

    def control(self, keyword: str) -> nodes.Branch:
        scope = len(self.variables)
        pipe = self.pipeline(keyword)
        self.ranges += keyword == "range"
        body, end = self.items()
        self.ranges -= keyword == "range"
        otherwise: tuple[nodes.Node, ...] = ()
        if end.value == "else":
            otherwise = self.otherwise(keyword, end)
        del self.variables[scope:]
        return nodes.Branch(keyword, pipe, body, otherwise)

    def otherwise(self, keyword: str, start: Token) -> tuple[nodes.Node, ...]:
        following = self.peek()
        if following.kind == "keyword":
            if following.value != keyword:
                raise self.unexpected(following, "else")
            self.next()
            self.depth += 1
            if self.depth > _NESTING:
                raise failure(start.line, f"more than {_NESTING} nested blocks")
            branch = self.control(keyword)
            self.depth -= 1
            return (branch,)
        body, end = self.items()
        if end.value != "end":
            raise failure(start.line, "expected end; found {{else}}")
        return body

    def invocation(self, token: Token) -> nodes.Invocation:
        name = self.name("template clause")
        if self.peek().kind == "}}":
            self.next()
            return nodes.Invocation(token.line, name, None)
        return nodes.Invocation(token.line, name, self.pipeline("template clause"))

    def name(self, where: str) -> str:
        return unquote(self.expect("string", where))

    # pipelines

    def pipeline(self, where: str, end: str = "}}") -> nodes.Pipe:
        line = self.peek().line
        declared, assigns = self.declarations(where)
        commands: list[nodes.Command] = []
        while (token := self.peek()).kind != end:
            if token.kind not in _STARTS_OPERAND:
                raise self.unexpected(token, where)
            commands.append(self.command())
        self.next()
        if not commands:
            raise failure(line, f"missing value for {where}")
        for stage, command in enumerate(commands[1:], start=2):
            if isinstance(command.args[0], nodes.Dot | nodes.NilLiteral | nodes.Literal):
                raise failure(line, f"non executable command in pipeline stage {stage}")
        return nodes.Pipe(line, tuple(commands), tuple(declared), assigns)

    def declarations(self, where: str) -> tuple[list[str], bool]:
        declared: list[str] = []
        while self.peek().kind == "variable":
            start = self.index
            variable, after = self.next(), self.peek()
            if after.kind in ("declare", "assign"):
                self.next()
                declared.append(variable.value)
                self.variables.append(variable.value)
                return declared, after.kind == "assign"
            if after.value != "," or after.kind != "other":
                self.index = start
                break
            self.next()
            declared.append(variable.value)
            self.variables.append(variable.value)
            if where != "range" or len(declared) > 1:
                raise failure(variable.line, f"too many declarations in {where}")
            if self.peek().kind not in ("variable", "}}", ")"):
                raise failure(variable.line, "range can only initialize variables")
        return declared, False

    def command(self) -> nodes.Command:
        args: list[nodes.Operand] = []
        while True:
            operand = self.operand()
            if operand is not None:
                args.append(operand)
            token = self.peek(spaces=True)
            if token.kind == "pipe":
                self.next(spaces=True)
            if token.kind in ("pipe", "}}", ")"):
                break
            if token.kind != "space":
                raise self.unexpected(token, "operand")
            self.next(spaces=True)
        if not args:
            raise failure(token.line, "empty command")
        return nodes.Command(tuple(args))

    def operand(self) -> nodes.Operand | None:
        line, term = self.peek().line, self.term()
        names: list[str] = []
        while term is not None and self.peek(spaces=True).kind == "field":
            names.append(self.next(spaces=True).value[1:])
        if term is None or not names:
            return term
        if isinstance(term, nodes.Field):
            return nodes.Field((*term.names, *names))
        if isinstance(term, nodes.Variable):
            return nodes.Variable(term.name, (*term.names, *names))
        if isinstance(term, nodes.Function | nodes.Pipe):
            return nodes.Chain(term, tuple(names))
        raise failure(line, f"unexpected .{names[0]} after a literal")

    def term(self) -> nodes.Operand | None:  # noqa: PLR0911 - one return a kind of token
        token = self.peek()
        if token.kind not in _STARTS_OPERAND:
            return None
        self.next()
        match token.kind:
            case "dot":
                return nodes.Dot()
            case "nil":
                return nodes.NilLiteral()
            case "field":
                return nodes.Field((token.value[1:],))
            case "word":
                if token.value not in self.functions:
                    raise failure(token.line, f"function {token.value!r} not defined")
                return nodes.Function(token.value)
            case "variable":
                if token.value not in self.variables:
                    raise failure(token.line, f"undefined variable {token.value!r}")
                return nodes.Variable(token.value)
            case "(":
                return self.parenthesized(token)
            case _:
                return nodes.Literal(literal(token))

    def parenthesized(self, token: Token) -> nodes.Pipe:
        self.depth += 1
        if self.depth > _NESTING:
            raise failure(token.line, f"more than {_NESTING} nested parentheses")
        pipe = self.pipeline("parenthesized pipeline", ")")
        self.depth -= 1
        return pipe


def _blank(tree: tuple[nodes.Node, ...]) -> bool:
    return all(isinstance(node, nodes.Text) and not node.text.strip() for node in tree)
