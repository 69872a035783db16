"""The Jinja dialect: what vLLM, llama.cpp, transformers and LMDeploy's `hf` take.

Knows how to write a form as Jinja that renders the same in transformers' environment and in llama.cpp's own
Jinja: no filters but `trim`, no macros, every text a quoted literal. A source that is a Jinja stays as it is,
byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from chat_templates.dialects import jinja_tools
from chat_templates.dialects.base import DialectFacts, DialectRefused
from chat_templates.dialects.jinja_text import joined, literal, out, refuse, trimmed
from chat_templates.jinja_engine import JinjaRequest, shared_worker, switch
from chat_templates.rounds import ROUND
from chat_templates.template import ChatTemplate, Markup, Message
from chat_templates.thinking import Strip, Thinking

if TYPE_CHECKING:
    from chat_templates.jinja_engine import RenderFailed
    from chat_templates.sources.source import TemplateSource
    from chat_templates.stops import Stops

__all__ = ["JinjaDialect", "write_jinja"]

_STRIP: Mapping[Strip, str] = {"nothing": "", "line_feeds": ".strip('\\n')", "white_space": ".strip()"}
_STRIP_START: Mapping[Strip, str] = {
    "nothing": "",
    "line_feeds": ".lstrip('\\n')",
    "white_space": ".lstrip()",
}


class JinjaDialect:
    """Chat templates as transformers renders them."""

    name = "jinja"
    reads: Literal["checkpoint", "gguf"] = "checkpoint"
    filename = "chat_template.jinja"

    def write(self, source: TemplateSource, stops: Stops | None, facts: DialectFacts) -> str:
        """Return the source's own Jinja, or one written from its form."""
        if source.origin == "jinja":
            return source.jinja
        if source.form is None:
            reason = source.form_refusal or "no reason was found"
            raise DialectRefused(f"{source.spec} has neither a Jinja nor a form: {reason}.")
        return write_jinja(source.form)

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
        """Return the prompt; the engines add no BOS to it. Raises `TemplateError`."""
        return shared_worker().render(
            text,
            JinjaRequest(
                messages,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                bos_token=facts.bos_token,
                eos_token=facts.eos_token,
                variables={**facts.other_tokens, **switch(thinking)},
                typed_content=facts.typed_content,
                now=facts.now.isoformat() if facts.now else None,
            ),
        )

    def render_all(self, text: str, requests: Sequence[JinjaRequest]) -> list[str | RenderFailed]:
        """Render many conversations in one go; a failure stands in the place of its prompt."""
        return shared_worker().render_all(text, requests)


def write_jinja(form: ChatTemplate) -> str:
    """Return a Jinja template that renders every conversation as `form.render` does."""
    return "\n".join(_lines(form)) + "\n"


def _lines(form: ChatTemplate) -> Iterator[str]:
    yield f"{{#- The {_comment(form.name)} chat template, written by Portside from its texts. -#}}"
    if form.bos:
        yield out(form.bos)
    if form.system is None:
        yield "{%- set turns = messages %}"
        if form.tools is None:
            yield from _block_or_text(form, literal(form.no_system))
        else:
            yield f"{{%- set lead = {literal(form.tools.alone)} %}}"
            yield f"{{%- set block = {literal(form.no_system)} %}}"
            yield from jinja_tools.offer(form.tools)
            yield from _block_or_text(form, "block")
    else:
        yield from _system(form, form.system)
    if form.counted:
        yield "{%- set question = namespace(number=0) %}"
    yield from _last_question(form)
    yield "{%- for message in turns %}"
    yield "    {%- set content = message['content'] if message['content'] else '' %}"
    yield "    {%- if content is not string %}"
    yield f"        {refuse(f'The chat template {form.name!r} takes text only.')}"
    yield "    {%- endif %}"
    yield from _thoughts(form)
    yield from _roles(form)
    yield "{%- endfor %}"
    if form.generation_prompt or form.thinking:
        yield "{%- if add_generation_prompt %}"
        yield f"    {{{{- {_generation_prompt(form)} }}}}"
        yield "{%- endif -%}"
    else:
        yield "{#- There is no generation prompt. -#}"


def _system(form: ChatTemplate, markup: Markup) -> Iterator[str]:
    """Set `block` to the text of the system block and `turns` to the other messages."""
    missing = literal(form.missing_system)
    yield "{%- if messages and messages[0]['role'] == 'system' %}"
    yield "    {%- set system = messages[0]['content'] if messages[0]['content'] else '' %}"
    if "system" in form.trimmed:
        yield "    {%- set system = system | trim %}"
    block = joined(markup.prefix, "''" if "system" in form.dropped else "system", markup.suffix)
    if form.empty_system == "absent":
        block = f"({block}) if system else {missing}"
    elif form.empty_text is not None:
        block = f"({block}) if system else {literal(form.empty_text)}"
    yield f"    {{%- set block = {block} %}}"
    yield from jinja_tools.lead(form, "system")
    yield "    {%- set turns = messages[1:] %}"
    yield "{%- else %}"
    yield f"    {{%- set block = {missing} %}}"
    yield from jinja_tools.lead(form, None)
    yield "    {%- set turns = messages %}"
    yield "{%- endif %}"
    if form.tools is not None:
        yield from jinja_tools.offer(form.tools)
    yield from _block_or_text(form, "block")


def _block_or_text(form: ChatTemplate, block: str) -> Iterator[str]:
    if form.system_placement != "own_turn":
        yield f"{{%- set pending = namespace(block={block}) %}}"
    elif block != "''":
        yield f"{{{{- {block} }}}}"


def _last_question(form: ChatTemplate) -> Iterator[str]:
    """Set `asked.index` to the number of the last question among `turns`, where thoughts depend on it."""
    if not _needs_question(form.thinking):
        return
    yield "{%- set asked = namespace(index=-1) %}"
    yield "{%- for message in turns %}"
    yield "    {%- if message['role'] == 'user' %}"
    yield "        {%- set asked.index = loop.index0 %}"
    yield "    {%- endif %}"
    yield "{%- endfor %}"


def _needs_question(thinking: Thinking | None) -> bool:
    if thinking is None:
        return False
    return thinking.past != thinking.current or (thinking.strip_history and not thinking.strip_current)


def _thoughts(form: ChatTemplate) -> Iterator[str]:
    """Set `thought` to what stands in front of an answer, and `content` to the answer without thoughts."""
    thinking = form.thinking
    if thinking is None:
        return
    yield "    {%- set thought = '' %}"
    past = "loop.index0 < asked.index" if _needs_question(thinking) else "not loop.last"
    arms = [*_thought_arms(thinking)]
    if thinking.strip_history:
        close = literal(thinking.close)
        stripped = "not loop.last" if thinking.strip_current else past
        answer = f"content.split({close})[-1]{_STRIP_START[thinking.strip_after]}"
        condition = f"message['role'] == 'assistant' and {stripped} and {close} in content"
        arms.append((condition, "''", answer))
    for keyword, (condition, thought, answer) in zip(["if", *["elif"] * len(arms)], arms, strict=False):
        yield f"    {{%- {keyword} {condition} %}}"
        if thought != "''":
            yield f"        {{%- set thought = {thought} %}}"
        if answer != "content":
            yield f"        {{%- set content = {answer} %}}"
    if arms:
        yield "    {%- endif %}"


def _thought_arms(thinking: Thinking) -> Iterator[tuple[str, str, str]]:
    """Yield condition, thought and answer for thoughts that come in a field of their own."""
    field = "message['reasoning_content']"
    given = f"message['role'] == 'assistant' and {field} is string and {field}"
    places = ("loop.index0 < asked.index", thinking.past), ("loop.index0 >= asked.index", thinking.current)
    arms = {f"{given} and {place}": thought for place, thought in places}
    if thinking.past == thinking.current:
        arms = {given: thinking.past}
    for condition, thought in arms.items():
        if thought is not None:
            said = f"{field}{_STRIP[thought.strip]}"
            text = joined(thought.prefix, said, thought.suffix)
            yield condition, text, f"content{_STRIP_START[thought.strip_answer]}"


def _roles(form: ChatTemplate) -> Iterator[str]:
    first_user = form.system_placement == "first_user"
    last_user = form.system_placement == "last_user"
    block = (
        "(pending.block if loop.last else '') + " if last_user else "pending.block + " if first_user else ""
    )
    if form.last_question:
        block += f"({literal(form.last_question)} if loop.last else '') + "
    user = block + _content(form, "user")
    yield from jinja_tools.special_turns(form)
    keyword = "if" if form.tools is None else "elif"
    yield f"    {{%- {keyword} message['role'] == 'user' %}}"
    if form.counted:
        yield "        {%- set question.number = question.number + 1 %}"
        prefix = " ~ question.number ~ ".join(map(literal, form.user.prefix.split(ROUND)))
        user = f"({prefix}) + {user}"
    yield f"        {{{{- {joined('' if form.counted else form.user.prefix, user, form.user.suffix)} }}}}"
    if first_user:
        yield "        {%- set pending.block = '' %}"
    yield "    {%- elif message['role'] == 'assistant' %}"
    assistant = joined("", _content(form, "assistant"), form.assistant.suffix)
    begun = f"({literal(form.begun)} if loop.last else '')" if form.begun else ""
    if form.thinking and (form.thinking.past or form.thinking.current):
        begun = f"(thought or {begun})" if begun else "thought"
    begun += " + " if begun else ""
    yield f"        {{{{- {_answer_prefix(form)}{begun}{assistant} }}}}"
    if form.separator:
        yield "        {%- if not loop.last %}"
        yield f"            {out(form.separator)}"
        yield "        {%- endif %}"
    if form.tools is None and form.tool is not None:
        yield "    {%- elif message['role'] == 'tool' %}"
        tool = joined(form.tool.prefix, _content(form, "tool"), form.tool.suffix)
        yield f"        {{{{- {tool} }}}}"
    yield "    {%- else %}"
    said = literal(f"The chat template {form.name!r} has no place here for the role ")
    yield f"        {{{{- raise_exception({said} + message['role']) }}}}"
    yield "    {%- endif %}"


def _generation_prompt(form: ChatTemplate) -> str:
    usual, thinking = form.generation_prompt, form.thinking
    if thinking is None or not thinking.switched:
        return literal(usual)
    on, off = (literal(thinking.generation_prompt(usual, switch)) for switch in (True, False))
    return f"({literal(usual)}) if enable_thinking is not defined else ({on}) if enable_thinking else ({off})"


def _answer_prefix(form: ChatTemplate) -> str:
    """Return the text before an answer as the first operand of a sum, "" if there is none."""
    plain, thinking = literal(form.assistant.prefix), form.thinking
    if thinking and thinking.prefix is not None:
        content = trimmed(form, "assistant")
        marked = f"{literal(thinking.open)} in {content} or {literal(thinking.close)} in {content}"
        return f"({literal(thinking.prefix)} if {marked} else {plain}) + "
    return f"{plain} + " if form.assistant.prefix else ""


def _content(form: ChatTemplate, role: str) -> str:
    return "''" if role in form.dropped else trimmed(form, role)


def _comment(text: str) -> str:
    """Return `text` so that it cannot end a comment."""
    return " ".join(text.replace("#", "").split()) or "unnamed"
