"""What the readers of other trainers' templates share.

Knows how the text behind a question falls apart into the question's end and the answer's header, where BOS
belongs in the form, and how an unknown name is answered. Does not know any trainer.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from chat_templates.dialects.jinja import write_jinja
from chat_templates.sources.source import TemplateSource
from chat_templates.template import ChatTemplate, Markup
from checkpoint import Checkpoint
from errors import TemplateError, UsageError

__all__ = [
    "Tokens",
    "bos_in_front",
    "in_order",
    "is_directory",
    "is_path",
    "source_of",
    "split_header",
    "tokens_of",
    "unknown_name",
]

_HEADER = re.compile(
    r"(?:(?:<[^<>/]*(?:start|begin)[^<>/]*>[^<>]*)?<[^<>/]*>"  # a marker; <start>assistant<end> is one
    r"(?:</think>)?"  # with thoughts that are over before they begin
    r"|\[[^\[\]/]*\]"
    r"|[^<>\[\]]*\w[^<>\[\]]*)\s*\Z"  # or words
)
"""What may begin an answer; a closing marker such as [/INST] does not."""


@dataclass(frozen=True)
class Tokens:
    """The special tokens of the tokenizer that the model is trained with."""

    bos: str | None = None
    """None: the tokenizer has none, or it is not known."""
    eos: str | None = None
    known: bool = False
    """Whether a tokenizer said so."""
    tokenizer_class: str = ""
    """As tokenizer_config.json names it."""

    def needed_eos(self, name: str) -> str:
        """Return EOS. Raises `TemplateError` when nothing names it."""
        if self.eos is None:
            raise TemplateError(
                f"The training text of {name} has the tokenizer's EOS token in it, which is not known here.",
                hint="Use it with a checkpoint whose tokenizer_config.json names an eos_token.",
            )
        return self.eos


def tokens_of(checkpoint: Checkpoint | None) -> Tokens:
    """Return the special tokens' texts of `checkpoint`."""
    if checkpoint is None:
        return Tokens()
    tokenizer = checkpoint.tokenizer
    named = str(tokenizer.config.get("tokenizer_class") or "")
    return Tokens(tokenizer.bos_token, tokenizer.eos_token, known=True, tokenizer_class=named)


def split_header(text: str, closing: str) -> tuple[str, str]:
    """Return the end of the question and the header of the answer: `text`, what stands between them.

    `closing` is what ends the system block: a question often ends likewise. Trainers do not tell the two
    apart; plain chats come out the same wherever the cut is.
    """
    if closing and text.startswith(closing) and text != closing:
        return closing, text[len(closing) :]
    body = text.rstrip()
    line = body.rfind("\n") + 1
    if body and line:
        return text[:line], text[line:]
    header = _HEADER.search(text)
    at = header.start() if header else len(text)
    return text[:at], text[at:]


def bos_in_front(form: ChatTemplate, bos: str) -> ChatTemplate:
    """Return `form` with a BOS that begins every turn said as the beginning of the prompt and the end of
    the separator, so that engines which write BOS themselves are told about it."""
    own = form.system if form.system_placement == "own_turn" else None
    starts = form.user.prefix.startswith(bos) and (own is None or own.prefix.startswith(bos))
    if not bos or form.bos or not starts:
        return form
    system = Markup(own.prefix.removeprefix(bos), own.suffix + bos) if own else form.system
    user = Markup(form.user.prefix.removeprefix(bos), form.user.suffix)
    return replace(form, bos=bos, user=user, system=system, separator=form.separator + bos)


def in_order(texts: Iterable[str | None]) -> tuple[str, ...]:
    """Return the texts that are not empty, each once."""
    return tuple(dict.fromkeys(text for text in texts if text))


def is_path(what: str, suffixes: tuple[str, ...]) -> bool:
    """Whether `what` is a path, with one of the suffixes, in or of a directory, rather than a name."""
    return what.endswith(suffixes) or "/" in what or is_directory(what)


def is_directory(what: str) -> bool:
    try:
        return bool(what) and Path(what).is_dir()
    except OSError:  # longer than a file's name may be
        return False


def source_of(spec: str, description: str, form: ChatTemplate, tokens: Tokens) -> TemplateSource:
    """Return the source for a trainer's form."""
    return TemplateSource(
        spec=spec,
        description=description,
        origin="form",
        jinja=write_jinja(form),
        form=form,
        bos_token=tokens.bos,
        eos_token=tokens.eos,
    )


def unknown_name(trainer: str, prefix: str, name: str, names: Iterable[str]) -> UsageError:
    """Return the error for a template that `trainer` does not have."""
    known = sorted(names)
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    meant = f"Did you mean {', '.join(prefix + one for one in near)}? " if near else ""
    return UsageError(f"{trainer} has no chat template {name!r}.", hint=f"{meant}It has {', '.join(known)}.")
