"""XTuner v1's chat templates: `xtuner:v1/NAME`, the names of its CHAT_TEMPLATE_MAP.

Knows what `ChatMessages.get_prompt` and `process_message` of XTuner v1 make of a template's fields: the
messages' texts one behind the other, `sep` behind every answer, the default system message in front of
conversations that do not begin with one, even an empty one. No token is added: BOS is there where a field
writes it. Does not know XTuner 0.2's templates (`xtuner`), which have other fields and other rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chat_templates.sources.source import TemplateSource
from chat_templates.sources.trainers import in_order, source_of, split_header, tokens_of
from chat_templates.template import ChatTemplate, Markup
from chat_templates.tools import Piece, ToolFormat
from chat_templates.trainers import facts
from checkpoint import Checkpoint
from errors import TemplateError

__all__ = ["V1", "load_xtuner_v1", "xtuner_v1_form", "xtuner_v1_names"]

V1 = "v1/"
_SEP = "\n"
"""What HybridChatTemplate has as `sep` where a template names none."""
_CONTENT = "\0"
"""Stands for a content; no field holds it."""


def load_xtuner_v1(name: str, checkpoint: Checkpoint | None) -> TemplateSource:
    """Return the source `xtuner:v1/name`; `name` is known. Raises `TemplateError` for a refused one."""
    form = xtuner_v1_form(name, facts("xtuner_v1")[name])
    description = f"XTuner v1's template {name}: the text that XTuner v1 (commit 14a0f0ea) trains on"
    return source_of(f"xtuner:{V1}{name}", description, form, tokens_of(checkpoint))


def xtuner_v1_names() -> tuple[str, ...]:
    """Return the names of XTuner v1's templates as they are asked for, those the form cannot say included."""
    return tuple(V1 + name for name in facts("xtuner_v1"))


def xtuner_v1_form(name: str, fields: Mapping[str, Any]) -> ChatTemplate:
    """Return the form of the template with XTuner v1's `fields`. Raises `TemplateError`."""
    _refuse(name, fields)
    system, user, answer = (_around(fields[key], key) for key in ("system", "user", "assistant"))
    user_suffix, header = split_header(user.suffix, system.suffix)
    form = ChatTemplate(
        name=name,
        user=Markup(user.prefix, user_suffix),
        assistant=Markup(header + answer.prefix, answer.suffix),
        generation_prompt=header,
        system=system,
        default_system=fields.get("default_system"),
        separator=fields.get("sep", _SEP),
        stop=in_order(fields["stop_words"]),
    )
    return _with_tools(form, fields) if "tool_prompt" in fields else form


def _refuse(name: str, fields: Mapping[str, Any]) -> None:
    ends = fields.get("loss_assistant_format_mapping", {})
    if not ends:
        return
    past, learnt = next(iter(ends.items()))
    raise TemplateError(
        f"The XTuner v1 template {name!r} ends the answer that is learnt with {learnt!r} and past answers "
        f"with {past!r}, which also ends a thought in front of the answer. A form has one end for all "
        "answers, and a model that stops there would stop behind its thoughts.",
        hint="Write a Jinja template that says both, and name it: --template FILE.jinja.",
    )


def _around(text: str, field: str) -> Markup:
    """Return the texts around {field} as `str.format`, which XTuner calls, leaves them."""
    prefix, suffix = text.format(**{field: _CONTENT}).split(_CONTENT)
    return Markup(prefix, suffix)


def _with_tools(form: ChatTemplate, fields: Mapping[str, Any]) -> ChatTemplate:
    """Return `form` with tools as XTuner v1 writes them.

    The definitions follow the system message's text, or the default's, each in a line of its own behind a
    line feed; so do the calls. Each result is a turn of its own that ends with the answer's header, and that
    header stands there even where another result follows.
    """
    assert form.system is not None
    offer, result = (
        _around(fields["tool_prompt"], "tool_text"),
        _around(fields["tool_extractor"], "tool_extractor"),
    )
    header = form.generation_prompt
    middle = offer.prefix + "\n"
    return replace(
        form,
        tools=ToolFormat(
            alone=form.system.prefix + (form.default_system or "") + middle,
            prefix=form.system.prefix,
            middle=middle,
            joint="\n",
            end=offer.suffix + form.system.suffix,
            in_user=False,
            definition="tool",
            definition_style="spaced",
            call_alone=form.assistant.prefix + "\n",
            call_prefix=form.assistant.prefix,
            call_middle="\n",
            call=_CALL,
            call_style="spaced",
            call_joint="\n",
            result_open=form.assistant.suffix + form.separator + result.prefix,
            result_joint=result.suffix + result.prefix,
            result_close=result.suffix.removesuffix(header),
        ),
    )


_CALL = (
    Piece("text", '<tool_call>\n{"name": "'),
    Piece("name"),
    Piece("text", '", "arguments": '),
    Piece("arguments"),
    Piece("text", "}\n</tool_call>"),
)
"""A call as `function_formatter` writes it."""
