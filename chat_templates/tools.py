"""`ToolFormat`: how a chat template writes tool definitions, calls and results, as texts around them.

Knows the order of the pieces and the ways in which JSON is written. Does not know the rest of a template,
nor how a format is found (`sources.probe_tools`) or said in another language.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from errors import TemplateError

__all__ = ["JsonStyle", "Piece", "ToolFormat", "write_json"]

JsonStyle = Literal["spaced", "indented", "compact"]
"""Python's `", "` and `": "`; four spaces a level; no white space. Never escaped beyond what JSON needs."""

_LAYOUT: Mapping[JsonStyle, dict[str, Any]] = {
    "spaced": {},
    "indented": {"indent": 4},
    "compact": {"separators": (",", ":")},
}


def write_json(value: Any, style: JsonStyle) -> str:
    """Return `value` as the filter `tojson` of transformers writes it in `style`."""
    return json.dumps(value, ensure_ascii=False, **_LAYOUT[style])


@dataclass(frozen=True)
class Piece:
    """A part of a tool call: a fixed text, the function's name or its arguments as JSON."""

    kind: Literal["text", "name", "arguments"]
    text: str = ""


@dataclass(frozen=True)
class ToolFormat:
    """The texts around tools. Each text begins where the one before it ends, so none is written twice."""

    alone: str
    """From the end of BOS to the first definition when there is no system message."""
    prefix: str
    middle: str
    """Before a given system message, and from there to the first definition."""
    joint: str
    """Between two definitions."""
    end: str
    """After the last definition: up to the first turn, or to the first question where `in_user`."""
    in_user: bool
    """The definitions stand inside the first question's turn, whose prefix is in the texts above."""
    definition: Literal["tool", "function"]
    """Whether the whole tool is written or what is under its `function`."""
    definition_style: JsonStyle
    call_alone: str
    """From the start of the assistant's turn to the first call when it says nothing besides."""
    call_prefix: str | None
    call_middle: str
    """Before what the assistant says besides, and from there to the first call. None: it is not written."""
    call: tuple[Piece, ...]
    call_style: JsonStyle
    call_joint: str | None
    """Between two calls of one turn. None: a turn has one call only."""
    result_open: str
    """From the last call to the first result, which has to follow."""
    result_joint: str
    """Between two results that follow each other."""
    result_close: str
    """From the last result to the next turn."""
    result_quoted: bool = False
    """A result is written as a JSON string."""

    def block(self, system: str | None, tools: Sequence[Mapping[str, Any]]) -> str:
        """Return the text from BOS to the first turn (or question); `system` None if there is none."""
        shown = [tool if self.definition == "tool" else tool["function"] for tool in tools]
        lead = self.alone if system is None else f"{self.prefix}{system}{self.middle}"
        return lead + self.joint.join(write_json(tool, self.definition_style) for tool in shown) + self.end

    def calls(self, content: str, calls: Sequence[Mapping[str, Any]]) -> str:
        """Return the assistant's turn that makes `calls`. Raises `TemplateError`."""
        if self.call_joint is None and len(calls) > 1:
            raise TemplateError("The chat template takes one tool call a turn only.")
        besides = content and self.call_prefix is not None
        lead = f"{self.call_prefix}{content}{self.call_middle}" if besides else self.call_alone
        return lead + (self.call_joint or "").join(map(self.one_call, calls))

    def result(self, content: str, *, first: bool, last: bool) -> str:
        """Return one result; `first` and `last` tell its place among those that follow each other."""
        shown = write_json(content, "spaced") if self.result_quoted else content
        return (
            (self.result_open if first else self.result_joint) + shown + (self.result_close if last else "")
        )

    def one_call(self, call: Mapping[str, Any]) -> str:
        """Return the text of one call. Raises `TemplateError`."""
        function = call.get("function", call)
        try:
            texts = {
                "name": function["name"],
                "arguments": write_json(function["arguments"], self.call_style),
            }
        except (KeyError, TypeError) as error:
            raise TemplateError(f"A tool call's function has no name and arguments: {error}.") from error
        return "".join(texts.get(piece.kind, piece.text) for piece in self.call)
