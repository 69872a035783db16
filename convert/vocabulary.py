"""A checkpoint's tokenizer as the metadata under `tokenizer.`.

Knows the two kinds that llama.cpp runs for the supported families: byte-level BPE ("gpt2") and SentencePiece
("llama"). With `repair` the stop ids and the flags are those the template and the tokenizer need; without it
they are what the stock converter of llama.cpp writes. Does not know chat templates: it is handed the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from checkpoint import AddedToken, Checkpoint, Finding, PieceModel, Tokenizer
from convert.approximations import approximations
from convert.byte_level import check_byte_level
from convert.fields import Field, boolean, float32s, int32s, string, strings, uint32
from convert.pieces import (
    is_chatglm,
    looks_special,
    piece_findings,
    piece_tokens,
    vocabulary_model,
)
from convert.pretokenizers import check_pre_tokenizer_name, pre_tokenizer_name
from convert.sentencepiece import ADDED_SCORE, adds_space_prefix, is_byte, is_sentencepiece, piece_scores
from convert.special import add_flags, special_ids, stock_ids
from convert.stops import stop_slots
from errors import ConversionError, UsageError

__all__ = ["TokenType", "Vocabulary", "read_vocabulary"]


class TokenType(IntEnum):
    """The values of tokenizer.ggml.token_type."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Everything a GGUF file says about tokens. `tokens`, `types` and `scores` are by id."""

    model: str
    """"gpt2" or "llama"."""
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] | None
    merges: tuple[str, ...]
    special: Mapping[str, int]
    """Name of a special token in GGUF's keys ("bos", "eos", "unknown", …) -> id."""
    add: Mapping[str, bool]
    """Which of "bos", "eos", "sep" llama.cpp puts around a text."""
    space_prefix: bool | None
    findings: tuple[Finding, ...] = ()

    def fields(self) -> tuple[Field, ...]:
        """Return the metadata, in the stock converter's order."""
        key = "tokenizer.ggml"
        fields = [string(f"{key}.model", self.model), string(f"{key}.pre", self.pre)]
        if self.space_prefix is not None:
            fields.insert(0, boolean(f"{key}.add_space_prefix", self.space_prefix))
        fields.append(strings(f"{key}.tokens", self.tokens))
        if self.scores is not None:
            fields.append(float32s(f"{key}.scores", self.scores))
        fields.append(int32s(f"{key}.token_type", self.types))
        if self.merges:
            fields.append(strings(f"{key}.merges", self.merges))
        fields += [uint32(f"{key}.{name}_token_id", value) for name, value in self.special.items()]
        fields += [boolean(f"{key}.add_{name}_token", value) for name, value in self.add.items()]
        return tuple(fields)


def read_vocabulary(
    checkpoint: Checkpoint,
    stop_ids: Sequence[int] | None,
    *,
    prompts_begin_with_bos: bool | None = None,
    pre: str | None = None,
) -> Vocabulary:
    """Return the vocabulary of `checkpoint`, padded to the rows of its embedding.

    `stop_ids` are the ids that must end generation, the template's turn end first; None asks for what the
    stock converter would write. `prompts_begin_with_bos` says whether the chat template's do; llama.cpp adds
    BOS to every prompt or to none. `pre` is the name of the pre-tokenizer the user insists on. Raises
    `ConversionError` for a tokenizer that llama.cpp cannot run, `UsageError` for a `pre` it does not have.
    """
    tokenizer = checkpoint.tokenizer
    pieces = is_sentencepiece(tokenizer.raw)
    findings = [] if pieces else list(check_byte_level(tokenizer))
    if pre is None:
        pre = _pre(checkpoint, pieces=pieces)
        findings += approximations(pre, tokenizer)
    else:
        pre = _insisted(pre, pieces=pieces)
        findings.append(_unproven(pre))
    model = vocabulary_model(checkpoint) if pieces else None
    tokens, types, scores = _tokens(checkpoint, model, pieces=pieces, repair=stop_ids is not None)
    special = special_ids(checkpoint, len(tokens))
    add = add_flags(checkpoint)
    space_prefix = _stock_space_prefix(checkpoint, model)
    if stop_ids is None:
        special = stock_ids(checkpoint, special)
    if stop_ids is not None:
        special, more = _repaired_ids(special, tokenizer, stop_ids, tokens)
        findings += more
        add = {"bos": tokenizer.adds_bos and "bos" in special, "eos": False}
        if add["bos"] and prompts_begin_with_bos is False:
            add["bos"] = False
            findings.append(_bos_left_out())
        if pieces:
            space_prefix, findings = _space_prefix(tokenizer, findings)
            findings += piece_findings(model) if model is not None else ()
    return Vocabulary(
        model="llama" if pieces else "gpt2",
        pre=pre,
        tokens=tokens,
        types=types,
        scores=scores,
        merges=() if pieces else tuple(_merge(pair) for pair in tokenizer.merges),
        special=special,
        add=add,
        space_prefix=space_prefix if isinstance(space_prefix, bool) else None,
        findings=tuple(findings),
    )


def _pre(checkpoint: Checkpoint, *, pieces: bool) -> str:
    if pieces:
        return "chatglm-spm" if is_chatglm(checkpoint.tokenizer) else "default"
    name = pre_tokenizer_name(checkpoint.tokenizer.raw)
    # The same words; but of GLM-4's, llama.cpp knows that they do not begin with BOS.
    return _GLM4.get(name, name) if "glm" in checkpoint.config.architecture.lower() else name


def _insisted(pre: str, *, pieces: bool) -> str:
    if pieces:
        raise UsageError(
            "--pre names the rule of a byte-level tokenizer, but this one is SentencePiece's and has none.",
            hint="Leave --pre out.",
        )
    return check_pre_tokenizer_name(pre)


def _unproven(pre: str) -> Finding:
    return Finding(
        "pre-tokenizer-insisted",
        "warning",
        f"The pre-tokenizer {pre} was named by hand: nothing says that it splits as tokenizer.json does.",
        "Compare the ids of some texts in the languages that count with those of the tokenizer.",
    )


_GLM4 = {"smaug-bpe": "chatglm-bpe", "llama-bpe": "glm4"}


def _stock_space_prefix(checkpoint: Checkpoint, model: PieceModel | None) -> Any:
    if checkpoint.config.architecture in _LLAMA:
        return checkpoint.tokenizer.config.get("add_prefix_space")
    if checkpoint.config.architecture in _GEMMA:
        return False
    if checkpoint.config.architecture == "InternLM2ForCausalLM" and model is not None:
        return model.add_dummy_prefix
    return None


_LLAMA = {"LlamaForCausalLM", "MistralForCausalLM", "InternLMForCausalLM", "InternLM3ForCausalLM"}
_GEMMA = {"GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"}


def _repaired_ids(
    special: Mapping[str, int], tokenizer: Tokenizer, stop_ids: Sequence[int], tokens: Sequence[str]
) -> tuple[dict[str, int], tuple[Finding, ...]]:
    named = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "padding": tokenizer.pad_id}
    ids = {name: value for name, value in named.items() if value is not None and value < len(tokens)} | dict(
        special
    )
    slots, findings = stop_slots(stop_ids, ids.get("eos"), tokens)
    return {**{name: value for name, value in ids.items() if name not in {"eot", "eom"}}, **slots}, findings


def _space_prefix(tokenizer: Tokenizer, findings: list[Finding]) -> tuple[bool, list[Finding]]:
    prefix, everywhere = adds_space_prefix(tokenizer.raw)
    if prefix and not everywhere:
        found = Finding(
            "space-prefix-after-special",
            "warning",
            "The tokenizer puts a space in front of a text only where the text begins; llama.cpp does so "
            "after every special token as well.",
            "Use a chat template whose special tokens are followed by white space, or serve with vLLM.",
        )
        return True, [*findings, found]
    return prefix, findings


def _bos_left_out() -> Finding:
    return Finding(
        "bos-left-out",
        "info",
        "The tokenizer would put BOS in front of a text, but the chat template's prompts do not begin with "
        "it; the file tells llama.cpp not to add one, so that chats are as in training. Plain completions go "
        "without it.",
    )


def _tokens(
    checkpoint: Checkpoint, model: PieceModel | None, *, pieces: bool, repair: bool
) -> tuple[tuple[str, ...], tuple[int, ...], tuple[float, ...] | None]:
    """Return text, type and (of pieces) score by id; ids that were never given out are UNUSED."""
    tokenizer, size = checkpoint.tokenizer, checkpoint.config.vocab_size
    if len(tokenizer.tokens) > size:
        raise ConversionError(
            f"{tokenizer.path} gives out ids up to {len(tokenizer.tokens) - 1}, but the embedding has only "
            f"{size} rows (vocab_size in config.json).",
            hint="Tokenizer and weights must come from the same model; after adding tokens the embedding "
            "must be resized before training.",
        )
    if model is not None:
        made = piece_tokens(checkpoint, model, size, repair=repair)
        _check_distinct(tokenizer, made.texts)
        return tuple(made.texts), tuple(made.types), tuple(made.scores)
    texts, types = _listed_tokens(tokenizer, size, pieces=pieces)
    return texts, types, _scores(checkpoint, texts) if pieces else None


def _listed_tokens(
    tokenizer: Tokenizer, size: int, *, pieces: bool
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return text and type by id as tokenizer.json has them."""
    added = {token.id: token for token in tokenizer.added}
    unknown = tokenizer.raw["model"].get("unk_token") if pieces else None
    texts, types = [], []
    for number in range(size):
        text = tokenizer.tokens[number] if number < len(tokenizer.tokens) else None
        if text is None:
            text, kind = f"[PAD{number}]", TokenType.UNUSED
        elif number in added:
            text, kind = _added(added[number])
        elif pieces and is_byte(text):
            kind = TokenType.BYTE
        else:
            kind = TokenType.UNKNOWN if text == unknown else TokenType.NORMAL
        texts.append(text)
        types.append(int(kind))
    _check_distinct(tokenizer, texts)
    return tuple(texts), tuple(types)


def _added(token: AddedToken) -> tuple[str, TokenType]:
    text = token.content
    if token.special or looks_special(text):
        return text, TokenType.CONTROL
    return text.replace("▁", " "), TokenType.USER_DEFINED


def _check_distinct(tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    if len(set(texts)) == len(texts):
        return
    first: dict[str, int] = {}
    for number, text in enumerate(texts):
        other = first.setdefault(text, number)
        if other != number:
            raise ConversionError(
                f"{tokenizer.path} gives the token {text[:60]!r} two ids, {other} and {number}; llama.cpp "
                "does not load such a vocabulary.",
                hint="Compare its added_tokens with the base model's.",
            )


def _scores(checkpoint: Checkpoint, tokens: Sequence[str]) -> tuple[float, ...]:
    known = piece_scores(checkpoint.tokenizer, checkpoint.tokenizer_path)
    added = {token.id for token in checkpoint.tokenizer.added}
    return tuple(
        ADDED_SCORE if number in added else known.get(text, ADDED_SCORE) for number, text in enumerate(tokens)
    )


def _merge(pair: tuple[str, str]) -> str:
    # A space inside a part would read as the separator; byte-level vocabularies write it as U+0120.
    return " ".join(part.replace(" ", "Ġ") for part in pair)
