"""Tools in a Jinja template: definitions, calls and results, as the form writes them.

Knows `tojson` as transformers and llama.cpp have it. Does not know plain turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from chat_templates.dialects.jinja_text import joined, literal, refuse, trimmed
from chat_templates.template import ChatTemplate
from chat_templates.tools import JsonStyle, ToolFormat

__all__ = ["lead", "offer", "special_turns"]

_TOJSON: Mapping[JsonStyle, str] = {
    "spaced": "tojson",
    "indented": "tojson(indent=4)",
    "compact": "tojson(separators=(',', ':'))",
}
_NEXT_IS_RESULT = "not loop.last and turns[loop.index]['role'] == 'tool'"


def lead(form: ChatTemplate, system: str | None) -> Iterator[str]:
    """Set `lead` to the text before the first definition; `system` is the variable of a given message."""
    tools = form.tools
    if tools is None:
        return
    text = literal(tools.alone)
    if system is not None:
        given = joined(tools.prefix, system, tools.middle)
        text = f"({given}) if {system} else {text}" if form.empty_system == "absent" else given
    yield f"    {{%- set lead = {text} %}}"


def offer(tools: ToolFormat) -> Iterator[str]:
    """Write the definitions in the place of the system `block`, if the request has any."""
    shown = "tool" if tools.definition == "tool" else "tool['function']"
    yield "{%- if tools %}"
    yield "    {%- set block = '' %}"
    yield "    {{- lead }}"
    yield "    {%- for tool in tools %}"
    joint = f"('' if loop.first else {literal(tools.joint)}) + " if tools.joint else ""
    yield f"        {{{{- {joint}({shown} | {_TOJSON[tools.definition_style]}) }}}}"
    yield "    {%- endfor %}"
    yield f"    {{{{- {literal(tools.end)} }}}}"
    yield "{%- endif %}"


def special_turns(form: ChatTemplate) -> Iterator[str]:
    """Write the turns that tools make different, as the first arms of the choice between roles."""
    tools = form.tools
    if tools is None:
        return
    keyword = "if"
    if tools.in_user:
        yield "    {%- if tools and loop.first %}"
        yield "        {%- if message['role'] != 'user' %}"
        yield f"            {refuse(f'The chat template {form.name!r} needs a question to put tools in.')}"
        yield "        {%- endif %}"
        question = "''" if "user" in form.dropped else trimmed(form, "user")
        yield f"        {{{{- {joined('', question, form.user.suffix)} }}}}"
        keyword = "elif"
    yield f"    {{%- {keyword} message['role'] == 'assistant' and message['tool_calls'] %}}"
    yield from _calls(form, tools)
    yield "    {%- elif message['role'] == 'tool' %}"
    yield from _result(form, tools)


def _calls(form: ChatTemplate, tools: ToolFormat) -> Iterator[str]:
    yield f"        {{%- if not ({_NEXT_IS_RESULT}) %}}"
    said = f"The form of {form.name!r} has tool calls only in front of their results."
    yield f"            {refuse(said)}"
    if tools.call_joint is None:
        yield "        {%- elif message['tool_calls'] | length > 1 %}"
        yield f"            {refuse('The chat template takes one tool call a turn only.')}"
    yield "        {%- endif %}"
    opening = _with_thought(form, tools.call_alone)
    if tools.call_prefix is not None:
        content = trimmed(form, "assistant")
        besides = f"{_with_thought(form, tools.call_prefix)} + {content} + {literal(tools.call_middle)}"
        opening = f"({besides}) if {content} else ({opening})"
    yield f"        {{{{- {opening} }}}}"
    yield "        {%- for call in message['tool_calls'] %}"
    yield "            {%- set function = call['function'] if call['function'] else call %}"
    if tools.call_joint:
        yield "            {%- if not loop.first %}"
        yield f"                {{{{- {literal(tools.call_joint)} }}}}"
        yield "            {%- endif %}"
    pieces = {
        "name": "function['name']",
        "arguments": f"(function['arguments'] | {_TOJSON[tools.call_style]})",
    }
    call = " + ".join(pieces.get(piece.kind) or literal(piece.text) for piece in tools.call)
    yield f"            {{{{- {call} }}}}"
    yield "        {%- endfor %}"


def _with_thought(form: ChatTemplate, text: str) -> str:
    """Return an expression for the `text` that opens a turn with calls, and the thought in its place."""
    thinking = form.thinking
    if thinking is None or not (thinking.past or thinking.current):
        return literal(text)
    at = form.thought_place(text)
    return joined(text[:at], "thought", text[at:])


def _result(form: ChatTemplate, tools: ToolFormat) -> Iterator[str]:
    yield "        {%- set first = loop.first or turns[loop.index0 - 1]['role'] != 'tool' %}"
    yield "        {%- if first and (loop.first or not turns[loop.index0 - 1]['tool_calls']) %}"
    said = f"The form of {form.name!r} has a tool's result only behind its call."
    yield f"            {refuse(said)}"
    yield "        {%- endif %}"
    shown = "(content | tojson)" if tools.result_quoted else trimmed(form, "tool")
    opening = f"({literal(tools.result_open)} if first else {literal(tools.result_joint)})"
    close = f"('' if {_NEXT_IS_RESULT} else {literal(tools.result_close)})"
    yield f"        {{{{- {opening} + {shown} + {close} }}}}"
