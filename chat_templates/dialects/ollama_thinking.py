"""Thoughts in an Ollama Go template: in past answers, in a field of their own, turned on and off.

Knows that Ollama hands over `.Thinking` of a message and the request's `.Think` (`.IsThinkSet` where the
request says anything), and how it finds the marks of thoughts in a template: around `.Thinking`, in plain
text. A model whose template shows none cannot be asked to think; one that shows them thinks unless it is told
not to. Does not know the rest of a turn.
"""

from __future__ import annotations

from collections.abc import Iterator

from chat_templates.dialects import gotemplate_nodes as nodes
from chat_templates.dialects.gotemplate import GoTemplate
from chat_templates.dialects.gotemplate_values import is_print, quote
from chat_templates.dialects.ollama_dates import literal
from chat_templates.dialects.ollama_strip import invoked, strip_loop
from chat_templates.template import ChatTemplate
from chat_templates.thinking import Thinking, Thought

__all__ = [
    "answer_prefix",
    "content",
    "definitions",
    "generation_prompt",
    "marks",
    "marks_in",
    "preamble",
    "thought",
]


def definitions(form: ChatTemplate) -> list[str]:
    """Return the named templates that thoughts need."""
    thinking = form.thinking
    if thinking is None:
        return []
    return [*_answer_definition(form, thinking), *_prefix_definition(form, thinking)]


def preamble(form: ChatTemplate) -> list[str]:
    """Return the lines that set `$question` to the index of the last question."""
    if form.thinking is None:
        return []
    return [
        "{{- $question := -1 }}{{ range $index, $_ := .Messages }}"
        '{{ if eq .Role "user" }}{{ $question = $index }}{{ end }}{{ end }}'
    ]


def marks(form: ChatTemplate) -> list[str]:
    """Return the line inside the range over messages by which Ollama knows the marks of thoughts.

    There is none where the template thinks only when asked to: Ollama would always ask.
    """
    thinking = form.thinking
    if thinking is None or thinking.on is not None:
        return []
    shown = [thinking.open.strip(), thinking.close.strip()]
    if not all(mark and "{{" not in mark and all(map(is_print, mark)) for mark in shown):
        return []
    return [f"{{{{- if false }}}}{shown[0]}{{{{ .Thinking }}}}{shown[1]}{{{{ end }}}}"]


def generation_prompt(form: ChatTemplate) -> str:
    """Return what stands behind the last message."""
    usual, thinking = form.generation_prompt, form.thinking
    if thinking is None or not thinking.switched:
        return literal(usual)
    on, off = (literal(thinking.generation_prompt(usual, switch)) for switch in (True, False))
    return _chosen([("not $.IsThinkSet", literal(usual)), ("$.Think", on)], off)


def content(form: ChatTemplate, plain: str) -> str:
    """Return what writes an answer's text; `plain` writes it as it is."""
    thinking = form.thinking
    if thinking is None or not plain:
        return plain
    stripped = plain
    if thinking.strip_history:
        kept = "$last" if thinking.strip_current else "ge $index $question"
        stripped = (
            f'{{{{ if {kept} }}}}{plain}{{{{ else }}}}{{{{ template "answer" .Content }}}}{{{{ end }}}}'
        )
    arms = []
    for condition, found in _written(thinking):
        trimmed = "assistant" in form.trimmed
        shown = plain if trimmed else invoked(".Content", found.strip_answer, both_ends=False)
        arms += [(condition, shown)] if shown != stripped else []
    return _chosen(arms, stripped)


def thought(form: ChatTemplate, otherwise: str) -> str:
    """Return what writes a message's thought, or `otherwise` where that is not written."""
    if form.thinking is None:
        return otherwise
    arms = []
    for condition, found in _written(form.thinking):
        said = invoked(".Thinking", found.strip, both_ends=True)
        arms.append((condition, literal(found.prefix) + said + literal(found.suffix)))
    return _chosen(arms, otherwise)


def answer_prefix(form: ChatTemplate) -> str:
    """Return what stands in front of an answer."""
    if form.thinking and form.thinking.prefix is not None:
        return '{{ template "answer prefix" .Content }}'
    return literal(form.assistant.prefix)


def _written(thinking: Thinking) -> Iterator[tuple[str, Thought]]:
    """Yield the conditions under which a thought from a field of its own is written, and how."""
    places = {"(lt $index $question)": thinking.past, "(ge $index $question)": thinking.current}
    for place, found in places.items():
        if found is not None:
            yield f"and .Thinking {place}", found


def _chosen(arms: list[tuple[str, str]], otherwise: str) -> str:
    if not arms:
        return otherwise
    chain = "{{ else if ".join(f"{condition} }}}}{text}" for condition, text in arms)
    last = f"{{{{ else }}}}{otherwise}" if otherwise else ""
    return f"{{{{ if {chain}{last}{{{{ end }}}}"


def _answer_definition(form: ChatTemplate, thinking: Thinking) -> list[str]:
    """Return the template that writes a past answer without its thoughts."""
    if not thinking.strip_history:
        return []
    found = [
        '{{- define "answer" }}{{ $text := . }}',
        *_search(thinking.close, "{{ $text = slice $text (len $rest) }}{{ break }}"),
    ]
    if loop := strip_loop(thinking.strip_after, at_end=False):
        found.append(f"{{{{- if ne (len $text) (len .) }}}}{loop}{{{{ end }}}}")
    shown = invoked("$text", "white_space" if "assistant" in form.trimmed else "nothing", both_ends=True)
    return [*found, "{{-" + shown.removeprefix("{{") + "{{ end }}"]


def _prefix_definition(form: ChatTemplate, thinking: Thinking) -> list[str]:
    """Return the template that writes the text in front of an answer with or without thoughts."""
    if thinking.prefix is None:
        return []
    found = "{{ $marked = true }}{{ break }}"
    return [
        '{{- define "answer prefix" }}{{ $text := . }}{{ $marked := false }}',
        *_search(thinking.open, found),
        *_search(thinking.close, found),
        f"{{{{- if $marked }}}}{literal(thinking.prefix)}{{{{ else }}}}{literal(form.assistant.prefix)}"
        "{{ end }}{{ end }}",
    ]


def _search(mark: str, found: str) -> list[str]:
    """Return the lines that look for `mark` in $text, from its end, and do `found` at the first they meet.

    $rest is then the text up to the end of the mark.
    """
    size = len(mark.encode())
    return [
        "{{- $rest := $text }}{{ range len $text }}"
        f"{{{{ if lt (len $rest) {size} }}}}{{{{ break }}}}{{{{ end }}}}",
        f"{{{{- if eq (slice $rest (len (slice $rest {size}))) {quote(mark)} }}}}{found}{{{{ end }}}}",
        "{{- $rest = slice $rest 0 (len (slice $rest 1)) }}{{ end }}",
    ]


def marks_in(template: GoTemplate) -> tuple[str, str]:
    """Return the marks of thoughts that Ollama reads off a template (its thinking/template.go), "" for none.

    They are the first and the last piece of the innermost list around `.Thinking`, where these are plain
    text, inside a range over `.Messages`.
    """
    found = ["", ""]
    for around in _around_thinking(template.trees.get("", ()), None):
        if isinstance(around[0], nodes.Text):
            found[0] = around[0].text.strip()
        if isinstance(around[-1], nodes.Text):
            found[1] = around[-1].text.strip()
    return found[0], found[1]


def _around_thinking(
    body: tuple[nodes.Node, ...], ranged: nodes.Pipe | None
) -> Iterator[tuple[nodes.Node, ...]]:
    """Yield the list around every `.Thinking` whose innermost range, over `ranged`, names `.Messages`."""
    for node in body:
        pipe = getattr(node, "pipe", None)
        inner = pipe if isinstance(node, nodes.Branch) and node.keyword == "range" else ranged
        if pipe is not None and _names(pipe, "Thinking") and inner is not None and _names(inner, "Messages"):
            yield body
        if isinstance(node, nodes.Branch):
            yield from _around_thinking(node.body, inner)
            yield from _around_thinking(node.otherwise, inner)


def _names(pipe: nodes.Pipe, name: str) -> bool:
    """Whether a field `.name` stands in the pipeline."""
    return any(
        (isinstance(arg, nodes.Field) and arg.names[:1] == (name,))
        or (isinstance(arg, nodes.Pipe) and _names(arg, name))
        for command in pipe.commands
        for arg in command.args
    )
