"""Ollama's legacy mode: a Go template that does not use .Messages is run once per turn.

Knows how Ollama (0.1.45 to 0.33) deals messages out to .System, .Prompt and .Response and where it cuts the
last turn (template.go: `Execute`, `deleteNode`). Does not know who writes BOS.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from chat_templates.dialects import gotemplate_nodes as nodes
from chat_templates.dialects.gotemplate import GoTemplate
from chat_templates.template import Message
from errors import TemplateError

__all__ = ["legacy_prompt"]

_RESPONSE = nodes.Action(nodes.Pipe(1, (nodes.Command((nodes.Field(("Response",)),)),)))
_OLLAMAS_OWN = frozenset({"json", "currentDate", "yesterdayDate", "toTypeScriptType"})


def legacy_prompt(
    template: GoTemplate, messages: Sequence[Message], today: datetime.date | None = None
) -> str:
    """Return what Ollama feeds for `messages`, which are collated. Raises `TemplateError` where it fails."""
    whole = template
    if "response" not in {name.lower() for name in template.identifiers()}:
        whole = _with_main(template, (*template.trees[""], _RESPONSE))
    *past, last = _turns(messages)
    out = [whole.execute(turn, today=today) for turn in past]
    return "".join([*out, _last_turn(whole).execute(last, today=today)])


def _turns(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """Yield the variables of each run. A later text of a kind ends the turn only when one is waiting behind
    it; results of tools are left out without a word."""
    system = prompt = response = ""
    for message in messages:
        role, content = message["role"], message["content"]
        if (role == "system" and (prompt or response)) or (role == "user" and response):
            yield _variables(system, prompt, response)
            system = prompt = response = ""
        if role == "system":
            system = content
        elif role == "user":
            prompt = content
        elif role == "assistant":
            response = content
    yield _variables(system, prompt, response)


def _variables(system: str, prompt: str, response: str) -> dict[str, Any]:
    said = {"System": system, "Prompt": prompt, "Response": response}
    return {**said, "Think": False, "ThinkLevel": "", "IsThinkSet": False}


def _with_main(template: GoTemplate, tree: tuple[nodes.Node, ...], *, alone: bool = False) -> GoTemplate:
    changed = copy.copy(template)
    changed.trees = {"": tree} if alone else {**template.trees, "": tree}
    return changed


def _last_turn(template: GoTemplate) -> GoTemplate:
    """Return the template without what stands behind the answer. Ollama builds it anew, so neither its own
    functions nor the `define`d templates are there."""
    return _with_main(template, _Cut().tree(template.trees[""]), alone=True)


class _Cut:
    """A walk that keeps everything up to the first .Response, which need not be written in any run."""

    def __init__(self) -> None:
        self.done = False

    def tree(self, tree: tuple[nodes.Node, ...]) -> tuple[nodes.Node, ...]:
        kept: list[nodes.Node] = []
        for node in tree:
            found = None if self.done else self.node(node)
            kept += [] if found is None else [found]
        return tuple(kept)

    def node(self, node: nodes.Node) -> nodes.Node | None:
        missing = _missing_function(node)
        if isinstance(node, nodes.Action):
            pipe = self.pipe(node.pipe)
            kept: nodes.Node | None = None if pipe is None else nodes.Action(pipe)
        elif isinstance(node, nodes.Branch):
            kept = self.branch(node)
        else:
            kept = node
        return missing if missing is not None and kept is not None else kept

    def branch(self, node: nodes.Branch) -> nodes.Branch:
        body = self.tree(node.body)
        if self.done and node.otherwise:
            raise TemplateError(
                f"The Go template has {{{{ .Response }}}} in front of an {{{{ else }}}} (line "
                f"{node.pipe.line}): Ollama fails there with HTTP 500.",
                hint="Write it behind the {{ end }}, or use .Messages.",
            )
        return replace(node, body=body, otherwise=self.tree(node.otherwise))

    def pipe(self, pipe: nodes.Pipe) -> nodes.Pipe | None:
        """Return what is left of `pipe`: None if any of its commands is left without a word."""
        commands = []
        for command in pipe.commands:
            args = tuple(kept for arg in command.args if (kept := self.operand(arg)) is not None)
            if not args:
                return None
            commands.append(nodes.Command(args))
        return replace(pipe, commands=tuple(commands))

    def operand(self, arg: nodes.Operand) -> nodes.Operand | None:
        if self.done:
            return None
        if isinstance(arg, nodes.Field) and "Response" in arg.names:
            self.done = True
        return self.pipe(arg) if isinstance(arg, nodes.Pipe) else arg


def _missing_function(node: nodes.Node) -> nodes.Invocation | None:
    """Return a node that fails as Go does at a function of Ollama's own in the last turn."""
    if isinstance(node, nodes.Action | nodes.Branch):
        for name in sorted(_OLLAMAS_OWN.intersection(_functions(node.pipe))):
            return nodes.Invocation(node.pipe.line, f"{name}, a function that the last turn lacks", None)
    return None


def _functions(pipe: nodes.Pipe) -> Iterator[str]:
    for command in pipe.commands:
        for arg in command.args:
            if isinstance(arg, nodes.Function):
                yield arg.name
            elif isinstance(arg, nodes.Pipe):
                yield from _functions(arg)
