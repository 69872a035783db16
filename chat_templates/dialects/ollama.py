"""The Ollama dialect: a Go template in "messages mode", and the prompt Ollama feeds for it.

Knows how Ollama (0.13 to 0.33) merges messages, what variables it gives a template and who writes BOS.
Does not know the Modelfile around the template. Every text of the form is written as a Go string literal,
so white space is visible, `{{` needs no care and every character survives the Modelfile's grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from chat_templates.dialects import ollama_strip, ollama_thinking, ollama_tools
from chat_templates.dialects.base import DialectFacts, DialectRefused
from chat_templates.dialects.gotemplate import GoTemplate
from chat_templates.dialects.gotemplate_values import quote
from chat_templates.dialects.ollama_dates import DECLARATION, date_definitions, literal
from chat_templates.dialects.ollama_legacy import legacy_prompt
from chat_templates.dialects.ollama_messages import collate, variables, without_thoughts
from chat_templates.rounds import ROUND
from chat_templates.template import ChatTemplate, Markup, Message

if TYPE_CHECKING:
    from chat_templates.sources.source import TemplateSource
    from chat_templates.stops import Stops

__all__ = ["OllamaDialect", "collate", "limits"]

_NO_CALL = "this chat template takes a tool's result only behind the call"
_NO_RESULT = "this chat template takes a tool call only in front of its result"
_NO_QUESTION = "this chat template needs a question to put the tools in"


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
        thinking: bool | None = None,
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
        thinks = all(ollama_thinking.marks_in(template))
        if thinking and not thinks:
            raise DialectRefused(
                "the Go template shows no marks of thoughts, so Ollama refuses requests to think"
            )
        if facts.model_type == "qwen3":
            messages = without_thoughts(messages)
        if "messages" not in used:
            return bos + legacy_prompt(template, collate(messages)[1], today)
        asked = True if thinking is None and thinks else thinking
        return bos + template.execute(variables(messages, tools, asked), today=today)


def limits(form: ChatTemplate, facts: DialectFacts | None = None) -> dict[str, str]:
    """Return why Ollama cannot be exact, by class of conversation. The proof decides what is exact; this
    puts its refusals into words."""
    found = {"repeated": "Ollama merges consecutive messages of one role, with an empty line between them"}
    if form.tools is None:
        reason = form.tools_refusal or "its form has no place for tools"
        found["tools"] = f"what the template does with tools cannot be taken apart: {reason}"
    if "system" in form.trimmed and (form.empty_system == "absent" or form.empty_text is not None):
        found["unicode"] = "a system message of nothing but white space is written as an empty block"
    thinking = form.thinking
    if thinking and thinking.on is not None:
        found["thinking"] = "Ollama always has a model think that can, this one thinks only when asked to"
    elif facts and facts.model_type == "qwen3" and (thinking is None or not thinking.strip_history):
        found["thinking"] = "Ollama itself takes the thoughts out of past answers of a qwen3 model"
    if facts and (extra := facts.extra_bos(form)):
        found["chat"] = extra
    return found


# writing


def _write(form: ChatTemplate, facts: DialectFacts) -> str:
    bos = form.bos
    if facts.adds_bos and facts.bos_token and facts.begins_with_bos(form):
        bos = bos.removeprefix(facts.bos_token)  # written here too it would stand there twice
    lines = [*ollama_thinking.definitions(form), *ollama_tools.definitions(form)]
    if form.system_placement == "first_user":
        lines.append("{{- $asked := false }}")
    if form.counted:  # Go's templates cannot add; a text grows by a character with every question
        lines.append('{{- $questions := "" }}')
    lines += ollama_thinking.preamble(form)
    if form.tools is not None:
        lines.append('{{- $run := "" }}{{ $fresh := true }}')
    lines += [
        f"{{{{- range $index, $_ := .Messages }}}}{_first(form, bos)}",
        "{{- $last := eq (len (slice $.Messages $index)) 1 }}",
        *ollama_thinking.marks(form),
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
    if closing := ollama_thinking.generation_prompt(form):
        lines.append(f'{{{{- if and $last (ne .Role "assistant") }}}}{closing}{{{{ end }}}}')
    lines = ["{{- /* Chat template written by Portside. */ -}}", *ollama_strip.definition(lines), *lines]
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
    if form.counted:
        prefix = "{{ len $questions }}".join(map(literal, form.user.prefix.split(ROUND)))
        return (
            '{{ $questions = print $questions "." }}' + prefix + block + content + literal(form.user.suffix)
        )
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
    content = ollama_thinking.content(form, _content(form, "assistant"))
    begun = f"{{{{ if $last }}}}{literal(form.begun)}{{{{ end }}}}" if form.begun else ""
    plain = ollama_thinking.answer_prefix(form) + ollama_thinking.thought(form, begun) + content + end
    if form.tools is None:
        return plain
    return ollama_tools.answer(form, plain, content, _fail(_NO_RESULT), _fail(_NO_QUESTION))


def _content(form: ChatTemplate, role: str, value: str = ".Content") -> str:
    if role in form.dropped:
        return ""
    return ollama_strip.invoked(value, "white_space" if role in form.trimmed else "nothing", both_ends=True)
