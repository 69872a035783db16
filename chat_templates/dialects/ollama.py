"""The Ollama dialect: a Go template in "messages mode", and the prompt Ollama feeds for it.

Knows how Ollama (0.13 to 0.33) merges messages, what variables it gives a template and who writes BOS.
Does not know the Modelfile around the template. Every text of the form is written as a Go string literal,
so white space is visible, `{{` needs no care and every character survives the Modelfile's grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from chat_templates.dialects import ollama_tools
from chat_templates.dialects.base import DialectFacts, DialectRefused
from chat_templates.dialects.gotemplate import GoTemplate
from chat_templates.dialects.gotemplate_values import quote
from chat_templates.dialects.ollama_dates import DECLARATION, date_definitions, literal
from chat_templates.dialects.ollama_legacy import legacy_prompt
from chat_templates.dialects.ollama_messages import collate, variables
from chat_templates.template import ChatTemplate, Markup, Message

if TYPE_CHECKING:
    from chat_templates.sources.source import TemplateSource
    from chat_templates.stops import Stops

__all__ = ["OllamaDialect", "collate", "limits"]

_NO_CALL = "this chat template takes a tool's result only behind the call"
_NO_RESULT = "this chat template takes a tool call only in front of its result"
_NO_QUESTION = "this chat template needs a question to put the tools in"
_WHITE = {
    1: "\t\n\v\f\r\x1c\x1d\x1e\x1f ",
    2: "\x85\xa0",
    3: "\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000",
}
"""What Python's str.strip takes off, by the number of bytes in UTF-8."""


class OllamaDialect:
    """Go templates as Ollama runs them."""

    name = "ollama"
    reads: Literal["checkpoint", "gguf"] = "gguf"
    filename = "ollama.gotmpl"

    def write(self, source: TemplateSource, stops: Stops | None, facts: DialectFacts) -> str:
        """Return the TEMPLATE for `source`. Raises `DialectRefused` when there is no form to write."""
        if source.form is None:
            reason = source.form_refusal or "no reason was found"
            raise DialectRefused(
                f"The chat template cannot be taken apart into the texts around its messages: {reason}."
            )
        return _write(source.form, facts)

    def render(
        self,
        text: str,
        messages: Sequence[Message],
        facts: DialectFacts,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> str:
        """Return the prompt Ollama feeds: BOS, if the GGUF adds it, and the template's output.

        Ollama has no switch for the generation prompt: a last message of the assistant is always
        continued, anything else always answered. Raises `DialectRefused` for the other two wishes.
        """
        answers = bool(messages) and messages[-1]["role"] != "assistant"
        if continue_final_message and answers:
            raise DialectRefused("Ollama continues the last message only when it is the assistant's.")
        if not add_generation_prompt and not continue_final_message:
            raise DialectRefused("Ollama always asks for an answer: it has no prompt without one.")
        template = GoTemplate(text)
        used = {name.lower() for name in template.identifiers()}
        bos = (facts.bos_token or "") if facts.adds_bos else ""
        today = facts.now.date() if facts.now else None
        if tools and "tools" not in used:
            raise DialectRefused("the Go template does not use .Tools, so Ollama refuses requests with tools")
        if "messages" not in used:
            return bos + legacy_prompt(template, collate(messages)[1], today)
        return bos + template.execute(variables(messages, tools), today=today)


def limits(form: ChatTemplate, facts: DialectFacts | None = None) -> dict[str, str]:
    """Return why Ollama cannot be exact, by class of conversation. The proof decides what is exact; this
    puts its refusals into words."""
    found = {"repeated": "Ollama merges consecutive messages of one role, with an empty line between them"}
    if form.tools is None:
        reason = form.tools_refusal or "its form has no place for tools"
        found["tools"] = f"what the template does with tools cannot be taken apart: {reason}"
    if "system" in form.trimmed and (form.empty_system == "absent" or form.empty_text is not None):
        found["unicode"] = "a system message of nothing but white space is written as an empty block"
    if facts and (extra := facts.extra_bos(form)):
        found["chat"] = extra
    return found


# writing


def _write(form: ChatTemplate, facts: DialectFacts) -> str:
    bos = form.bos
    if facts.adds_bos and facts.bos_token and facts.begins_with_bos(form):
        bos = bos.removeprefix(facts.bos_token)  # written here too it would stand there twice
    lines = [
        "{{- /* Chat template written by Portside. */ -}}",
        *_definitions(form),
        *ollama_tools.definitions(form),
    ]
    if form.system_placement == "first_user":
        lines.append("{{- $asked := false }}")
    if form.tools is not None:
        lines.append('{{- $run := "" }}{{ $fresh := true }}')
    lines += [
        f"{{{{- range $index, $_ := .Messages }}}}{_first(form, bos)}",
        "{{- $last := eq (len (slice $.Messages $index)) 1 }}",
        *([ollama_tools.before_turn(form, _fail(_NO_RESULT))] if form.tools else []),
        *_system_lines(form),
        '{{- else if eq .Role "user" }}' + _user(form),
        '{{- else if eq .Role "assistant" }}' + _assistant(form),
    ]
    if form.tools is not None:
        result = ollama_tools.result_turn(form, _content(form, "tool"), _fail(_NO_CALL))
        lines.append('{{- else if eq .Role "tool" }}' + result)
    elif form.tool is not None:
        lines.append('{{- else if eq .Role "tool" }}' + _around(form.tool, _content(form, "tool")))
    lines += [
        "{{- else }}" + _fail("this chat template has no place for a message of this role"),
        "{{- end }}",
    ]
    if form.generation_prompt:
        closing = literal(form.generation_prompt)
        lines.append(f'{{{{- if and $last (ne .Role "assistant") }}}}{closing}{{{{ end }}}}')
    body = "\n".join(lines) + "\n{{- end -}}\n"
    if form.dated:
        return "\n".join([*date_definitions(body), DECLARATION, body])
    return body


def _around(markup: Markup, content: str) -> str:
    return literal(markup.prefix) + content + literal(markup.suffix)


def _fail(reason: str) -> str:
    """Return an action that makes Ollama answer with an error that says `reason`: Go has no other way."""
    return "{{ template " + quote(reason) + " . }}"


def _given(form: ChatTemplate, message: str = "") -> str:
    """Return the condition that `message`, the first one, is a system message that counts."""
    condition = f'eq {message}.Role "system"'
    return f"and ({condition}) {message}.Content" if form.empty_system == "absent" else condition


def _first(form: ChatTemplate, bos: str) -> str:
    """Return what stands in front of the first message."""
    missing = literal(form.missing_system) if form.system_placement == "own_turn" else ""
    if missing and form.system is not None:
        missing = f"{{{{ if not ({_given(form)}) }}}}{missing}{{{{ end }}}}"
    if form.tools is not None:
        offer = ollama_tools.offer(form, _given(form, "$first"))
        missing = f"{{{{ if $.Tools }}}}{offer}{{{{ else }}}}{missing}{{{{ end }}}}"
    return f"{{{{ if eq $index 0 }}}}{literal(bos)}{missing}{{{{ end }}}}" if bos or missing else ""


def _system_lines(form: ChatTemplate) -> list[str]:
    """Return the arms for system messages. The form has no place for a late one, and says so."""
    if form.system is None:
        return ['{{- if eq .Role "system" }}' + _fail("this chat template does not accept a system message")]
    late = _fail("this chat template takes a system message only as the first message")
    block = ""
    if form.system_placement == "own_turn":
        block = _given_block(form, form.system)
        if form.empty_system == "absent":
            block = f"{{{{ if .Content }}}}{block}{{{{ end }}}}"
        if form.tools is not None:
            block = f"{{{{ if not $.Tools }}}}{block}{{{{ end }}}}"
    return [
        '{{- if and $index (eq .Role "system") }}' + late,
        '{{- else if eq .Role "system" }}' + block,
    ]


def _given_block(form: ChatTemplate, markup: Markup, message: str = "") -> str:
    """Return the block of `message`, which is a system message that counts."""
    block = _around(markup, _content(form, "system", f"{message}.Content"))
    if form.empty_text is None or form.empty_system == "absent":
        return block
    return f"{{{{ if {message}.Content }}}}{block}{{{{ else }}}}{literal(form.empty_text)}{{{{ end }}}}"


def _user(form: ChatTemplate) -> str:
    block = _system_in_user(form) if form.system_placement != "own_turn" else ""
    if block and form.system_placement == "last_user":
        block = f"{{{{ if $last }}}}{block}{{{{ end }}}}"
    elif block:
        block = f"{{{{ if not $asked }}}}{{{{ $asked = true }}}}{block}{{{{ end }}}}"
    content = _content(form, "user")
    if form.last_question:
        content = f"{{{{ if $last }}}}{literal(form.last_question)}{{{{ end }}}}{content}"
    if form.tools is None:
        return _around(form.user, block + content)
    return ollama_tools.user_turn(form, block, content)


def _system_in_user(form: ChatTemplate) -> str:
    missing = literal(form.missing_system)
    if form.system is None:
        return missing
    given = _given_block(form, form.system, "$first")
    otherwise = f"{{{{ else }}}}{missing}" if missing else ""
    condition = _given(form, "$first")
    return f"{{{{ $first := index $.Messages 0 }}}}{{{{ if {condition} }}}}{given}{otherwise}{{{{ end }}}}"


def _assistant(form: ChatTemplate) -> str:
    closing = literal(form.assistant.suffix + form.separator)
    end = f"{{{{ if not $last }}}}{closing}{{{{ end }}}}" if closing else ""
    content = _content(form, "assistant")
    if form.thinking and form.thinking.strip_history and content:
        content = (
            f'{{{{ if $last }}}}{content}{{{{ else }}}}{{{{ template "answer" .Content }}}}{{{{ end }}}}'
        )
    begun = f"{{{{ if $last }}}}{literal(form.begun)}{{{{ end }}}}" if form.begun else ""
    plain = literal(form.assistant.prefix) + begun + content + end
    if form.tools is None:
        return plain
    return ollama_tools.answer(form, plain, content, _fail(_NO_RESULT), _fail(_NO_QUESTION))


def _content(form: ChatTemplate, role: str, value: str = ".Content") -> str:
    if role in form.dropped:
        return ""
    return f'{{{{ template "trimmed" {value} }}}}' if role in form.trimmed else f"{{{{ {value} }}}}"


# Go's templates have no functions that search or trim. A loop that takes one piece off at a time does: for a
# text t of n bytes, n - k is `len (slice t k)`. Ranges over a number need Go 1.24, so Ollama 0.5.13.


def _definitions(form: ChatTemplate) -> list[str]:
    thinking = form.thinking if form.thinking and form.thinking.strip_history else None
    found: list[str] = []
    if form.trimmed:
        found.append('{{- define "trimmed" }}{{ $text := . }}')
        found += [_strip_loop(at_end=False), _strip_loop(at_end=True), "{{- $text }}{{ end }}"]
    if thinking is not None:
        size, close = len(thinking.close.encode()), quote(thinking.close)
        found += [
            '{{- define "answer" }}{{ $text := . }}{{ $rest := . }}',
            f"{{{{- range len . }}}}{{{{ if lt (len $rest) {size} }}}}{{{{ break }}}}{{{{ end }}}}",
            f"{{{{- $cut := len (slice $rest {size}) }}}}{{{{ if eq (slice $rest $cut) {close} }}}}",
            "{{- $text = slice $text (len $rest) }}{{ break }}{{ end }}",
            "{{- $rest = slice $rest 0 (len (slice $rest 1)) }}{{ end }}",
        ]
        if thinking.strip_after:
            found.append("{{- if ne (len $text) (len .) }}" + _strip_loop(at_end=False) + "{{ end }}")
        found.append(
            '{{- template "trimmed" $text }}{{ end }}'
            if "assistant" in form.trimmed
            else "{{- $text }}{{ end }}"
        )
    return found


def _strip_loop(*, at_end: bool) -> str:
    """Return a loop that takes the white space of Python's str.strip off one end of $text."""
    arms = []
    for size, spaces in _WHITE.items():
        rest = f"(len (slice $text {size}))"
        piece = f"(slice $text {rest})" if at_end else f"(slice $text 0 {size})"
        kept = f"slice $text 0 {rest}" if at_end else f"slice $text {size}"
        named = " ".join(map(quote, spaces))
        arms.append(f"if and (ge (len $text) {size}) (eq {piece} {named}) }}}}{{{{ $text = {kept} }}}}")
    return (
        "{{- range len $text }}{{ " + "\n{{- else ".join(arms) + "\n{{- else }}{{ break }}{{ end }}{{ end }}"
    )
