"""Tools in an Ollama Go template: definitions, calls and results, and JSON as Python writes it.

Knows that Ollama hands over tools as structs (fields it does not know are lost, properties come sorted by
name) and that its `json` is compact and escapes <, > and &. The written template puts a definition together
field by field, in the usual order of requests, and lays every JSON text out anew, one byte at a time.
Does not know plain turns.
"""

from __future__ import annotations

from itertools import takewhile

from chat_templates.dialects.gotemplate_values import is_print, quote
from chat_templates.dialects.ollama_dates import literal
from chat_templates.dialects.ollama_thinking import thought
from chat_templates.template import ChatTemplate
from chat_templates.tools import JsonStyle, ToolFormat

__all__ = ["answer", "before_turn", "definitions", "offer", "result_turn", "user_turn"]

_ESCAPED = {"<": "u003c", ">": "u003e", "&": "u0026", "\u2028": "u2028", "\u2029": "u2029"}
"""What Go escapes and Python writes as it is."""


def definitions(form: ChatTemplate) -> list[str]:
    """Return the named templates that tools need."""
    if form.tools is None:
        return []
    tools = form.tools
    styles: set[JsonStyle] = {tools.definition_style, tools.call_style}
    styles |= {"spaced"} if tools.result_quoted else set()
    found = [line for style in sorted(styles) for line in _printer(style)]
    return [*found, *_definition(tools)]


def offer(form: ChatTemplate, given: str) -> str:
    """Return what stands in front of the first turn of a request with tools; `given` is the condition that
    the first message, `$first`, is a system message that counts."""
    tools = form.tools
    assert tools is not None
    content = (
        '{{ template "trimmed" $first.Content }}' if "system" in form.trimmed else "{{ $first.Content }}"
    )
    lead = literal(tools.alone)
    if form.system is not None:
        lead = (
            f"{{{{ $first := index $.Messages 0 }}}}{{{{ if {given} }}}}{literal(tools.prefix)}{content}"
            f"{literal(tools.middle)}{{{{ else }}}}{lead}{{{{ end }}}}"
        )
    joint = f"{{{{ if $i }}}}{literal(tools.joint)}{{{{ end }}}}" if tools.joint else ""
    each = f'{{{{ range $i, $tool := $.Tools }}}}{joint}{{{{ template "definition" $tool }}}}{{{{ end }}}}'
    return lead + each + literal(tools.end)


def before_turn(form: ChatTemplate, fail: str) -> str:
    """Return what ends the results before a turn; `fail` makes Ollama answer with an error."""
    assert form.tools is not None
    close = literal(form.tools.result_close)
    return (
        f'{{{{- if ne .Role "tool" }}}}{{{{ if eq $run "result" }}}}{close}{{{{ $run = "" }}}}'
        f'{{{{ else if eq $run "call" }}}}{fail}{{{{ end }}}}{{{{ end }}}}'
    )


def user_turn(form: ChatTemplate, block: str, content: str) -> str:
    """Return the body of a question's turn; the system `block` is for requests without tools."""
    assert form.tools is not None
    block = f"{{{{ if not $.Tools }}}}{block}{{{{ end }}}}" if block else ""
    prefix, suffix = literal(form.user.prefix), literal(form.user.suffix)
    if form.tools.in_user:
        prefix = f"{{{{ if not (and $fresh $.Tools) }}}}{prefix}{{{{ end }}}}{{{{ $fresh = false }}}}"
    return prefix + block + content + suffix


def answer(form: ChatTemplate, plain: str, content: str, no_result: str, no_question: str) -> str:
    """Return the body of an assistant's turn: `plain`, or with calls; the others are what fails."""
    assert form.tools is not None
    lost = f"{{{{ if and $fresh $.Tools }}}}{no_question}{{{{ end }}}}" if form.tools.in_user else ""
    calls = _call_turn(form, content, no_result)
    return f"{lost}{{{{ if .ToolCalls }}}}{calls}{{{{ else }}}}{plain}{{{{ end }}}}"


def _call_turn(form: ChatTemplate, content: str, fail: str) -> str:
    """Return what is written for .ToolCalls; `content` writes what the assistant says besides."""
    tools = form.tools
    assert tools is not None
    lead, tag, rest = _lead(tools)
    pieces = {
        "name": "{{ $call.Function.Name }}",
        "arguments": _json("$call.Function.Arguments", tools.call_style),
    }
    call = "".join(pieces.get(piece.kind) or literal(piece.text) for piece in tools.call)
    joint = fail if tools.call_joint is None else literal(tools.call_joint)
    joint = f"{{{{ if $i }}}}{joint}{{{{ end }}}}" if joint else ""
    lead = _with_thought(form, lead)
    if tools.call_prefix is not None:
        besides = tools.call_middle.removesuffix(tag + rest)
        lead = (
            f"{{{{ if .Content }}}}{_with_thought(form, tools.call_prefix)}{content}{literal(besides)}"
            f"{{{{ else }}}}{lead}{{{{ end }}}}"
        )
    return (
        f"{lead}{tag}{literal(rest)}{{{{ range $i, $call := .ToolCalls }}}}{joint}{call}{{{{ end }}}}"
        f'{{{{ if $last }}}}{fail}{{{{ end }}}}{{{{ $run = "call" }}}}'
    )


def _with_thought(form: ChatTemplate, text: str) -> str:
    """Return what writes the `text` that opens a turn with calls, and the thought in its place."""
    at = form.thought_place(text)
    return literal(text[:at]) + thought(form, "") + literal(text[at:])


def result_turn(form: ChatTemplate, content: str, fail: str) -> str:
    """Return the body of a tool's turn."""
    tools = form.tools
    assert tools is not None
    shown = _json(".Content", "spaced") if tools.result_quoted else content
    return (
        f'{{{{ if eq $run "call" }}}}{literal(tools.result_open)}{{{{ else if eq $run "result" }}}}'
        f"{literal(tools.result_joint)}{{{{ else }}}}{fail}{{{{ end }}}}{shown}"
        f'{{{{ $run = "result" }}}}{{{{ if $last }}}}{literal(tools.result_close)}{{{{ end }}}}'
    )


def _lead(tools: ToolFormat) -> tuple[str, str, str]:
    """Return the text before the mark that opens calls, the mark, and what is left before the first call.

    Ollama finds the calls in what the model says by the first plain text behind `if .ToolCalls`.
    """
    if tools.call_prefix is None:
        shared = tools.call_alone.rpartition("\n")[2]
    else:
        pairs = zip(reversed(tools.call_alone), reversed(tools.call_middle), strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        shared = tools.call_alone[len(tools.call_alone) - same :].lstrip()
    tag = shared.partition("{")[0].rstrip()
    if not all(map(is_print, tag)):
        tag = ""
    rest = shared.removeprefix(tag)
    return tools.call_alone.removesuffix(shared), tag, rest


def _json(value: str, style: JsonStyle) -> str:
    return f'{{{{ template "{style}" (json {value}) }}}}'


def _definition(tools: ToolFormat) -> list[str]:
    """Return the template that writes one tool, its keys in the order of a request."""
    whole = tools.definition == "tool"
    begin = '"{\\"type\\":" (json .Type) ",\\"function\\":{\\"name\\":"' if whole else '"{\\"name\\":"'
    end = "}}" if whole else "}"
    return [
        f'{{{{- define "definition" }}}}{{{{ $text := print {begin} (json .Function.Name) }}}}',
        '{{- with .Function.Description }}{{ $text = print $text ",\\"description\\":" (json .) }}{{ end }}',
        "{{- with .Function.Parameters }}{{ if .Type }}",
        '{{- $text = print $text ",\\"parameters\\":{\\"type\\":" (json .Type) ",\\"properties\\":{" }}',
        '{{- $comma := "" }}{{ range $name, $property := .Properties }}',
        '{{- $text = print $text $comma (json $name) ":" (json $property) }}{{ $comma = "," }}{{ end }}',
        '{{- $text = print $text "}" }}',
        '{{- if .Required }}{{ $text = print $text ",\\"required\\":" (json .Required) }}{{ end }}',
        '{{- $text = print $text "}" }}{{ end }}{{ end }}',
        f'{{{{- template "{tools.definition_style}" (print $text "{end}") }}}}{{{{ end }}}}',
    ]


def _printer(style: JsonStyle) -> list[str]:
    """Return the template that lays out compact JSON in `style`, a byte at a time."""
    outside = {
        "compact": ["{{- else }}{{ $c }}{{ end }}{{ end }}{{ end }}"],
        "spaced": [
            '{{- else if eq $c "," ":" }}{{ $c }}{{ " " }}',
            "{{- else }}{{ $c }}{{ end }}{{ end }}{{ end }}",
        ],
        "indented": [
            '{{- else if eq $c ":" }}{{ $c }}{{ " " }}',
            '{{- else if eq $c "," }}{{ $c }}{{ $line }}',
            '{{- else if and (eq $c "{" "[") (eq (slice $rest 0 1) "}" "]") }}{{ $c }}{{ slice $rest 0 1 }}',
            "{{- $rest = slice $rest 1 }}",
            '{{- else if eq $c "{" "[" }}{{ $line = print $line "    " }}{{ $c }}{{ $line }}',
            '{{- else if eq $c "}" "]" }}{{ $line = slice $line 0 (len (slice $line 4)) }}',
            "{{- $line }}{{ $c }}",
            "{{- else }}{{ $c }}{{ end }}{{ end }}{{ end }}",
        ],
    }
    escapes = [
        f"{{{{- else if eq $e {quote(code)} }}}}{{{{ {quote(character)} }}}}{{{{ $rest = slice $rest 5 }}}}"
        for character, code in _ESCAPED.items()
    ]
    return [
        f'{{{{- define "{style}" }}}}{{{{ $rest := . }}}}{{{{ $in := false }}}}{{{{ $line := "\\n" }}}}',
        "{{- range len . }}{{ if not $rest }}{{ break }}{{ end }}",
        "{{- $c := slice $rest 0 1 }}{{ $rest = slice $rest 1 }}",
        '{{- if eq $c "\\"" }}{{ $in = not $in }}{{ $c }}',
        '{{- else if and $in (eq $c "\\\\") }}',
        '{{- $e := slice $rest 0 1 }}{{ if eq $e "u" }}{{ $e = slice $rest 0 5 }}{{ end }}',
        "{{- if eq (len $e) 1 }}{{ $c }}{{ $e }}{{ $rest = slice $rest 1 }}",
        *escapes,
        "{{- else }}{{ $c }}{{ $e }}{{ $rest = slice $rest 5 }}{{ end }}",
        "{{- else if $in }}{{ $c }}",
        *outside[style],
    ]
