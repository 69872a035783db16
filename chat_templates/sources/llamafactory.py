"""LLaMA-Factory's chat templates: the registered names, and a training run's own arguments.

Knows what `Template._encode`, its two relatives and the supervised processor of LLaMA-Factory 0.9.5 make of
the slots: `prefix [system] user assistant user assistant …`, every answer with what follows it as text to be
learnt. Does not know files (`training_arguments`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chat_templates.sources.source import TemplateSource
from chat_templates.sources.trainers import (
    Tokens,
    bos_in_front,
    in_order,
    is_directory,
    is_path,
    source_of,
    split_header,
    tokens_of,
    unknown_name,
)
from chat_templates.sources.training_arguments import SUFFIXES, Arguments, read_arguments, read_run
from chat_templates.template import ChatTemplate, Markup, Thinking
from chat_templates.trainers import facts
from checkpoint import Checkpoint
from errors import TemplateError

__all__ = ["PREFIX", "VERSION", "llamafactory_form", "llamafactory_names", "load_llamafactory"]

PREFIX = "llamafactory:"
VERSION = "0.9.5"
_NO_EOS = "<|endoftext|>"
"""What a tokenizer without EOS is given as one."""
_THOUGHT_WORDS = ("<think>\n", "\n</think>\n\n")


def load_llamafactory(what: str, checkpoint: Checkpoint | None) -> TemplateSource:
    """Return the source `llamafactory:what`: a template's name, a YAML or JSON file of training arguments, or
    the directory of a run.

    Raises `UsageError` for an unknown name, `TemplateError` for a template that cannot be used.
    """
    tokens = tokens_of(checkpoint)
    if what in facts("llamafactory"):
        arguments = Arguments(what)
        description = f"LLaMA-Factory's template {what}: the text that LLaMA-Factory {VERSION} trains on"
    elif is_path(what, SUFFIXES):
        path = read_run(Path(what)) if is_directory(what) else Path(what)
        arguments = read_arguments(path)
        description = f"LLaMA-Factory's template {arguments.template} with the training arguments of {path}"
    else:
        raise unknown_name("LLaMA-Factory", PREFIX, what, llamafactory_names())
    if arguments.template not in facts("llamafactory"):
        unknown = unknown_name("LLaMA-Factory", PREFIX, arguments.template, llamafactory_names())
        raise TemplateError(f"{what}: {unknown.message}", hint=unknown.hint)
    return source_of(PREFIX + what, description, llamafactory_form(arguments, tokens), tokens)


def llamafactory_names() -> tuple[str, ...]:
    """Return the names of the registered templates."""
    return tuple(facts("llamafactory"))


def llamafactory_form(arguments: Arguments, tokens: Tokens) -> ChatTemplate:
    """Return the form of the template that `arguments` name, trained with a tokenizer of these `tokens`."""
    slots = _Slots.filled(arguments.template, facts("llamafactory")[arguments.template], tokens)
    default = slots.default_system if arguments.default_system is None else arguments.default_system
    user_suffix, header = split_header(slots.user.suffix, slots.system.suffix)
    form = ChatTemplate(
        name=arguments.template,
        user=Markup(slots.user.prefix, user_suffix),
        assistant=Markup(header + slots.assistant.prefix, slots.assistant.suffix),
        generation_prompt=header,
        system=slots.system,
        bos=slots.prefix,
        system_placement="first_user" if slots.kind == "llama2" else "own_turn",
        default_system=default or None,
        empty_system="absent",
        stop=slots.stop,
    )
    form = bos_in_front(form, slots.turn_bos)
    return form if slots.empty_thought is None else _with_thoughts(form, slots, arguments)


@dataclass(frozen=True)
class _Slots:
    """One registration with LLaMA-Factory's defaults and the tokenizer's tokens filled in."""

    kind: str
    prefix: str
    system: Markup
    user: Markup
    assistant: Markup
    turn_bos: str
    """BOS where every question begins with it, else nothing."""
    default_system: str
    stop: tuple[str, ...]
    thought_words: tuple[str, str]
    empty_thought: str | None
    """What stands before an answer without thoughts; None where the template knows no thoughts."""

    @classmethod
    def filled(cls, name: str, fields: Mapping[str, Any], tokens: Tokens) -> _Slots:
        kind, ends_later = fields.get("class", "plain"), fields.get("efficient_eos", False)
        words = tuple(fields.get("stop_words", ()))
        eos = words[0] if fields.get("replace_eos") else tokens.eos or (_NO_EOS if tokens.known else None)
        texts = {
            "prefix": fields.get("prefix", ""),
            "system": fields.get("system", "{content}"),
            "user": fields.get("user", "{content}"),
            "assistant": fields.get("assistant", "{content}" if ends_later else "{content}{eos}"),
        }
        if eos is None and any("{eos}" in text for text in texts.values()):
            eos = tokens.needed_eos(f"LLaMA-Factory's template {name!r}")
        texts = {key: text.replace("{bos}", tokens.bos or "") for key, text in texts.items()}
        texts = {key: text.replace("{eos}", eos or "") for key, text in texts.items()}
        assistant = _markup(texts["assistant"])
        begins_with_eos = assistant.suffix.startswith(eos or "") if assistant.suffix.strip() else ends_later
        opening, closing = fields.get("thought_words", _THOUGHT_WORDS)
        empty = {"reasoning": opening + closing, "glm47": closing}.get(kind)
        return cls(
            kind=kind,
            prefix=texts["prefix"],
            system=_markup(texts["system"]),
            user=_markup(texts["user"]),
            assistant=assistant,
            turn_bos=(tokens.bos or "") if fields.get("user", "").startswith("{bos}") else "",
            default_system=fields.get("default_system", ""),
            stop=in_order((eos if begins_with_eos else None, *words, eos)),
            thought_words=(opening.strip(), closing.strip()),
            empty_thought=empty,
        )


def _markup(text: str) -> Markup:
    prefix, _, suffix = text.partition("{content}")
    return Markup(prefix, suffix)


def _with_thoughts(form: ChatTemplate, slots: _Slots, arguments: Arguments) -> ChatTemplate:
    """Return the form with the empty thought that answers without thoughts are trained with.

    With enable_thinking the model writes it itself; otherwise it is part of the prompt. Only
    `enable_thinking: false` takes thoughts out of the data.
    """
    if arguments.mask_history and not arguments.preserve_thinking:
        raise TemplateError(
            f"With mask_history, LLaMA-Factory's template {form.name!r} writes past answers without "
            "thoughts, and without the empty thought that the last answer begins with; a form has one text "
            "for both.",
            hint="Write a Jinja template that does, and name it: --template FILE.jinja.",
        )
    header, empty = form.generation_prompt, slots.empty_thought or ""
    opening, closing = slots.thought_words
    plain = header + empty + slots.assistant.prefix
    strips = arguments.enable_thinking is False
    return replace(
        form,
        assistant=Markup(plain, form.assistant.suffix),
        generation_prompt=header if arguments.enable_thinking else header + empty,
        thinking=Thinking(
            open=opening,
            close=closing,
            strip_history=strips,
            strip_after="white_space" if strips else "nothing",
            prefix=None if strips else form.assistant.prefix,
        ),
    )
