"""The GGUF dialect: the Jinja inside a GGUF file, and the prompt that llama.cpp makes of it.

llama.cpp's server runs it, and so does Ollama from 0.30 on where it prefers the GGUF's template to a
Modelfile's (see `ollama_prefers_gguf`). llama.cpp hands a template other things than transformers does
(`as_llama_cpp`); a few lines in front of the text take that back where it changes prompts. Does not know GGUF
files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from chat_templates.dialects.base import DialectFacts
from chat_templates.dialects.jinja import JinjaDialect
from chat_templates.jinja_engine import JinjaRequest, shared_worker, switch
from chat_templates.template import ChatTemplate, Message

if TYPE_CHECKING:
    from chat_templates.sources.source import TemplateSource
    from chat_templates.stops import Stops

__all__ = ["GgufDialect", "gguf_jinja", "limits", "ollama_prefers_gguf"]

_DATES = ("date_string", "datetime")
_READ_SYSTEM = "{%- set portside_system = messages[0]['content'] if messages else '' %}"
"""llama.cpp takes a template that never reads a system message's content to know none, and puts the text into
the first question. Having read it here, the template gets the message."""


class GgufDialect:
    """Chat templates as llama.cpp's server renders them."""

    name = "gguf"
    reads: Literal["checkpoint", "gguf"] = "gguf"
    filename = "gguf.jinja"

    def write(self, source: TemplateSource, stops: Stops | None, facts: DialectFacts) -> str:
        """Return the text for `tokenizer.chat_template`. Raises `DialectRefused` where there is none."""
        JinjaDialect().write(source, stops, facts)
        return source.gguf_jinja

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
        """Return the prompt that llama.cpp feeds: BOS is in front of it once where the GGUF adds it.

        Raises `RenderFailed`: where llama.cpp fails, and where what it writes cannot be foretold.
        """
        request = JinjaRequest(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            bos_token=facts.bos_token or "",
            eos_token=facts.eos_token or "",
            variables=switch(thinking),
            now=facts.now.isoformat() if facts.now else None,
            llama_cpp=True,
        )
        prompt = shared_worker().render(text, request)
        if not facts.adds_bos or not facts.bos_token:
            return prompt
        return facts.bos_token + prompt.removeprefix(facts.bos_token)


def gguf_jinja(source: TemplateSource) -> str:
    """Return the Jinja for a GGUF of `source`: its own, behind what keeps llama.cpp from changing prompts."""
    lines = [*_without_dates(source.jinja), *_with_system(source)]
    if not lines:
        return source.jinja
    # A line feed behind a block is not written; the one that ends these lines must not take the text's own.
    return "".join(f"{line}\n" for line in lines) + source.jinja


def _without_dates(jinja: str) -> Iterator[str]:
    """Yield what makes the dates that only llama.cpp hands over undefined again."""
    for name in _DATES:
        if name in jinja:
            yield f"{{%- set {name} = portside_undefined %}}"


def _with_system(source: TemplateSource) -> Iterator[str]:
    """Yield what makes llama.cpp leave a system message where it is, if it would fold it."""
    messages = ({"role": "system", "content": "SystemS"}, {"role": "user", "content": "QuestionQ"})
    plain, folded = shared_worker().render_all(
        source.jinja,
        [
            source.request(messages),
            JinjaRequest(
                messages, bos_token=source.bos_token or "", eos_token=source.eos_token or "", llama_cpp=True
            ),
        ],
    )
    moved = isinstance(folded, str) and "SystemS\nQuestionQ" in folded
    if moved and isinstance(plain, str) and "SystemS\nQuestionQ" not in plain:
        yield _READ_SYSTEM


def limits(form: ChatTemplate, facts: DialectFacts | None = None) -> dict[str, str]:
    """Return why llama.cpp cannot be exact, by class of conversation; it explains what was measured."""
    found = {}
    if form.trimmed:
        found["unicode"] = "white space beyond ASCII stays at the ends of a content in llama.cpp"
    thinking = form.thinking
    if thinking and thinking.on is not None:
        reason = "unless told not to, llama.cpp has a model think; this one thinks only when asked to"
        found = {
            **dict.fromkeys(("chat", "tools", "thinking", "repeated"), reason),
            "unicode": reason,
            **found,
        }
    if facts and (extra := facts.extra_bos(form)):
        found["chat"] = extra
    return found


def ollama_prefers_gguf(template: str, jinja: str) -> tuple[str, ...]:
    """Return for what Ollama 0.30 and later render with the GGUF's `jinja` instead of the TEMPLATE.

    They compare by substrings: tools, and thoughts, that the GGUF's template mentions and the Modelfile's
    does not. Empty: they use the TEMPLATE, as earlier versions always do.
    """
    tools = ("tools" in jinja or "tool_call" in jinja) and ".Tools" not in template
    thoughts = "<think>" in jinja and "</think>" in jinja and "<think>" not in template
    return tuple(word for word, is_so in (("tools", tools), ("thoughts", thoughts)) if is_so)
