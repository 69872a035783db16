"""Where the model stops: the texts that end the assistant's turn, as token ids.

Knows the template's turn end, the tokenizer's EOS and generation_config.json, and what engines make of them:
vLLM, LMDeploy and llama.cpp stop on the tokenizer's EOS and the ids of generation_config.json (config.json's
where that file is missing), and on nothing else unless a request says so. Does not know how they are started.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from checkpoint import Finding
from errors import TemplateError

if TYPE_CHECKING:
    from chat_templates.sources.source import TemplateSource
    from checkpoint import Checkpoint, Tokenizer

__all__ = ["Stops", "analyse_stops", "ending_of"]

_QUESTION, _ANSWER = "Question1Q", "Answer1A"
_MARKER = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")


@dataclass(frozen=True)
class Stops:
    """Everything the served model must stop on."""

    strings: tuple[str, ...] = ()
    """The stop texts, the template's turn end first."""
    ids: tuple[int, ...] = ()
    """Token ids: the template's turn end(s), the tokenizer's EOS, generation_config's; unique, in order."""
    multi_token: tuple[str, ...] = ()
    """Stop texts that are not one token of the vocabulary; engines that stop by id cannot use them."""
    findings: tuple[Finding, ...] = ()
    turn_end: int | None = None
    """The id of the token that ends the assistant's turn, None when the turn's end is not one token."""


def analyse_stops(source: TemplateSource, checkpoint: Checkpoint) -> Stops:
    """Return what a model trained with `source` must stop on."""
    tokenizer = checkpoint.tokenizer
    named = checkpoint.generation.eos_token_ids
    if not checkpoint.generation.exists:
        named = checkpoint.config.eos_token_ids
    texts = _unique([turn_end(source, tokenizer), *(source.form.stop if source.form else ())])
    found = {text: tokenizer.id_of(text) for text in texts}
    multi = tuple(text for text, token in found.items() if token is None)
    known = (*found.values(), tokenizer.eos_id, *named)
    ids = tuple(dict.fromkeys(i for i in known if i is not None and 0 <= i < len(tokenizer.tokens)))
    first = found[texts[0]] if texts else None
    stock = {tokenizer.eos_id, *named}
    findings = []
    for text, token in found.items():
        role = "ends the assistant's turn with" if text == texts[0] else "also stops on"
        if token is None:
            findings.append(_multi_token(role, text))
        elif token not in stock:
            findings.append(_not_named(role, text, token, checkpoint))
    strings = _unique([*texts, *(tokenizer.tokens[i] for i in ids)])
    return Stops(strings, ids, multi, tuple(findings), first)


def turn_end(source: TemplateSource, tokenizer: Tokenizer) -> str | None:
    """Return the text that ends the assistant's turn: a token where there is one, else a text, else EOS."""
    ending = ending_of(source)
    at, text = len(ending), ""
    for token in tokenizer.added:
        found = ending.find(token.content) if token.content.strip() else -1
        if found >= 0 and (found, -len(token.content)) < (at, -len(text)):
            at, text = found, token.content
    if text:
        return text
    if not ending.strip():
        return tokenizer.eos_token
    marker = _MARKER.search(ending)
    return marker[0] if marker else ending.strip()


def ending_of(source: TemplateSource) -> str:
    """Return the text right after an assistant's answer, up to whatever comes next; maybe empty."""
    if source.form is not None:
        return source.form.assistant.suffix
    question, answer = {"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}
    try:
        text = source.render([question, answer], add_generation_prompt=False)
    except TemplateError:
        return ""
    return text.rpartition(_ANSWER)[2] if _ANSWER in text else ""


def _unique(texts: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))


def _multi_token(role: str, text: str) -> Finding:
    return Finding(
        "template-stop-multi-token",
        "warning",
        f"The template {role} {text!r}, which is not one token of this tokenizer: "
        "no engine can stop on it by id.",
        "Clients must send it as `stop`; or check that the template belongs to this tokenizer.",
    )


def _not_named(role: str, text: str, token: int, checkpoint: Checkpoint) -> Finding:
    file = "generation_config.json" if checkpoint.generation.exists else "config.json"
    return Finding(
        "template-stop-not-in-generation-config",
        "warning",
        f"The template {role} {text!r} (id {token}), but neither {file} nor the tokenizer's eos_token names "
        "it: served as it is, the model would write it and go on.",
        f"`portside serve`, `build` and `gguf` add it by themselves; elsewhere put {token} into eos_token_id "
        "of generation_config.json.",
    )
