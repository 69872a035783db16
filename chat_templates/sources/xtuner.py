"""XTuner's chat templates: the bundled names, and a user's own out of a Python file that is never executed.

Knows what XTuner 0.2.0's `template_map_fn` and `encode_fn` make of a template's fields. A sample is
`BOS [SYSTEM] INSTRUCTION output SUFFIX [EOS] SEP`, turn after turn; a template whose SUFFIX is not its EOS
gets EOS behind every answer and BOS in front of every turn. Does not know the Python file's grammar
(`xtuner_files`), nor what XTuner v1 makes of its own templates (`xtuner_v1`).
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from chat_templates.rounds import ROUND
from chat_templates.sources.python_values import Unreadable
from chat_templates.sources.source import TemplateSource
from chat_templates.sources.trainers import (
    Tokens,
    in_order,
    is_directory,
    is_path,
    source_of,
    split_header,
    tokens_of,
    unknown_name,
)
from chat_templates.sources.xtuner_files import template_in
from chat_templates.sources.xtuner_v1 import V1, load_xtuner_v1, xtuner_v1_names
from chat_templates.template import ChatTemplate, Markup
from chat_templates.trainers import facts
from checkpoint import Checkpoint
from errors import TemplateError

__all__ = ["PREFIX", "VERSION", "load_xtuner", "xtuner_form", "xtuner_names"]

PREFIX = "xtuner:"
VERSION = "0.2.0"
_WITHOUT_BOS = ("QWenTokenizer", "QWen2Tokenizer", "Qwen2Tokenizer", "Qwen2TokenizerFast")
"""Tokenizers that XTuner gives no BOS, by class."""
_CHATGLM_BOS = (64790, 64792)
"""What XTuner puts in BOS's place for a ChatGLMTokenizer: [gMASK] and sop."""
_TYPES: Mapping[str, tuple[type, str]] = {
    "SYSTEM": (str, "a text"),
    "INSTRUCTION": (str, "a text"),
    "SUFFIX": (str, "a text"),
    "SUFFIX_AS_EOS": (bool, "True or False"),
    "SEP": (str, "a text"),
    "STOP_WORDS": (list, "a list of texts"),
}


def load_xtuner(what: str, checkpoint: Checkpoint | None) -> TemplateSource:
    """Return the source `xtuner:what`: a template's name, `v1/NAME` for XTuner v1's, or `FILE.py`,
    `FILE.py#NAME` or a run directory.

    Raises `UsageError` for an unknown name, `TemplateError` for a template that cannot be used.
    """
    if what in xtuner_v1_names():
        return load_xtuner_v1(what.removeprefix(V1), checkpoint)
    bundled = facts("xtuner")["templates"]
    if what in bundled:
        name, fields = what, bundled[what]
        description = f"XTuner's template {name}: the text that XTuner {VERSION} trains on"
    elif _is_file(what.partition("#")[0]):
        name, fields = template_in(what)
        description = f"the XTuner template {name} of {what.partition('#')[0]}: the text it trains on"
    else:
        raise unknown_name("XTuner", PREFIX, what, xtuner_names())
    tokens = tokens_of(checkpoint)
    bos = _bos(tokens, checkpoint)
    return source_of(PREFIX + what, description, xtuner_form(name, fields, bos, tokens), tokens)


def _is_file(what: str) -> bool:
    """Whether `what` is a path rather than a name; `v1/NAME` is none unless there is such a directory."""
    named = what.startswith(V1) and not what.endswith(".py") and not is_directory(what)
    return is_path(what, (".py",)) and not named


def xtuner_names() -> tuple[str, ...]:
    """Return the names of XTuner's own templates, v1's and those the form cannot say included."""
    return *facts("xtuner")["templates"], *xtuner_v1_names()


def xtuner_form(name: str, fields: Mapping[str, Any], bos: str, tokens: Tokens) -> ChatTemplate:
    """Return the form of the template with the `fields` SYSTEM, INSTRUCTION, SUFFIX, SUFFIX_AS_EOS, SEP and
    STOP_WORDS. `bos` is the text in front of a turn. Raises `TemplateError`."""
    _check(name, fields)
    system = _around(name, "SYSTEM", fields.get("SYSTEM") or "", "system")
    user = _around(name, "INSTRUCTION", fields.get("INSTRUCTION") or "", "input")
    if user is None:
        raise TemplateError(f"The XTuner template {name!r} has no INSTRUCTION.", hint=_HINT)
    user_suffix, header = split_header(user.suffix, system.suffix if system else "")
    suffix, separator = fields.get("SUFFIX") or "", fields.get("SEP", "")
    eos = ""
    if not fields.get("SUFFIX_AS_EOS", False):
        eos = tokens.needed_eos(f"the XTuner template {name!r}")
        separator += bos
    return ChatTemplate(
        name=name,
        user=Markup(user.prefix, user_suffix),
        assistant=Markup(header, suffix + eos),
        generation_prompt=header,
        system=system,
        bos=bos,
        empty_system="absent",
        separator=separator,
        stop=in_order((*fields.get("STOP_WORDS", ()), eos)),
    )


_HINT = (
    "A template is dict(SYSTEM='…{system}…', INSTRUCTION='…{input}…', SUFFIX=…, SUFFIX_AS_EOS=…, SEP=…, …)."
)


def _check(name: str, fields: Mapping[str, Any]) -> None:
    for key, (wanted, words) in _TYPES.items():
        value = fields.get(key)
        if isinstance(value, Unreadable):
            raise TemplateError(
                f"{key} of the XTuner template {name!r} is made by {value.what} in line {value.line}, and "
                "Portside reads the file without running it.",
                hint="Write the text out, as it is.",
            )
        absent = value is None and (key not in fields or key in ("SYSTEM", "SUFFIX"))
        texts = not isinstance(value, list) or all(isinstance(one, str) for one in value)
        if not absent and not (isinstance(value, wanted) and texts):
            raise TemplateError(f"{key} of the XTuner template {name!r} must be {words}.", hint=_HINT)


def _around(name: str, key: str, text: str, field: str) -> Markup | None:
    """Return the texts around {field} in one of XTuner's format strings; None for an empty string."""
    if not text:
        return None
    where = f"{key} of the XTuner template {name!r}"
    try:
        pieces = list(string.Formatter().parse(text))
    except ValueError as error:
        raise TemplateError(f"{where} is no format string: {error}.", hint=_HINT) from error
    counted = field == "input" and pieces and pieces[0][1] == "round"
    found = [piece[1] for piece in pieces if piece[1] is not None]
    if found != (["round", field] if counted else [field]) or any(piece[2] or piece[3] for piece in pieces):
        raise TemplateError(
            f"{where} must hold {{{field}}} once and no other field"
            + (", but for {round} in front of it." if field == "input" else "."),
            hint=_HINT,
        )
    at = next(i for i, piece in enumerate(pieces) if piece[1] == field)
    texts = [piece[0] for piece in pieces]
    return Markup((ROUND if counted else "").join(texts[: at + 1]), "".join(texts[at + 1 :]))


def _bos(tokens: Tokens, checkpoint: Checkpoint | None) -> str:
    """Return what XTuner's `get_bos_eos_token_ids` puts in front of a turn, as text."""
    if tokens.tokenizer_class in _WITHOUT_BOS:
        return ""
    if tokens.tokenizer_class == "ChatGLMTokenizer" and checkpoint is not None:
        known = checkpoint.tokenizer.tokens
        return "".join(known[number] or "" for number in _CHATGLM_BOS if number < len(known))
    return tokens.bos or ""
