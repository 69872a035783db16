"""The parts of tokenizer.json that are lists of tokens: model vocabulary, added tokens, merges.

Knows: the shapes that BPE, Unigram, WordPiece and WordLevel models have on disk. Does not know how text is
split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from checkpoint.findings import CheckpointFlaw

__all__ = ["AddedToken", "added_tokens", "base_vocabulary", "by_id", "merge_pairs"]

_MOST_TOKENS = 4_000_000  # the largest vocabularies in use have about 260,000


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched in the text before the model sees it."""

    id: int
    content: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    single_word: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the entry as tokenizer.json writes it."""
        return asdict(self)


def base_vocabulary(raw: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Return text -> id of the model's own tokens."""
    model = raw.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list):  # Unigram: [text, score] pairs, the position is the id
        texts = [item[0] if isinstance(item, list) and len(item) == 2 else None for item in vocab]
        if not all(isinstance(text, str) for text in texts):
            raise _damaged(path, "model.vocab has an entry that is not a [token, score] pair")
        vocab = {text: position for position, text in reversed(list(enumerate(texts)))}
        vocab = dict(sorted(vocab.items(), key=lambda item: item[1]))
    if not isinstance(vocab, dict) or not vocab:
        raise _damaged(path, "it has no model.vocab")
    if not all(type(token) is int and 0 <= token < _MOST_TOKENS for token in vocab.values()):
        raise _damaged(path, "model.vocab has an id that is not a number of proper size")
    return vocab


def added_tokens(
    raw: Mapping[str, Any], config: Mapping[str, Any], vocab: Mapping[str, int], path: Path
) -> tuple[AddedToken, ...]:
    """Return the added tokens of tokenizer.json by id, and those only tokenizer_config.json knows.

    transformers adds the entries of `added_tokens_decoder` that the tokenizer does not have yet.
    """
    listed = raw.get("added_tokens") or []
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(listed, list) or not isinstance(decoder, dict):
        raise _damaged(path, "its added tokens are not a list")
    found = {token.content: token for token in (_added(entry, path) for entry in listed)}
    taken = {token.id for token in found.values()} | set(vocab.values())
    for key, entry in decoder.items():
        where = path.with_name("tokenizer_config.json")
        number = int(key) if key.isascii() and key.isdigit() and len(key) < 9 else key
        token = _added({**entry, "id": number} if isinstance(entry, dict) else entry, where)
        if token.content not in found and vocab.get(token.content, token.id) == token.id:
            if token.id in taken and token.content not in vocab:
                raise _damaged(where, f"added_tokens_decoder gives id {token.id} to a second token")
            found[token.content] = token
    return tuple(sorted(found.values(), key=lambda token: token.id))


def by_id(vocab: Mapping[str, int], added: Sequence[AddedToken], path: Path) -> tuple[str | None, ...]:
    """Return the texts by id; two texts for one id are refused."""
    pairs = {**vocab, **{token.content: token.id for token in added}}
    texts: list[str | None] = [None] * (max(pairs.values()) + 1)
    for text, token in pairs.items():
        if texts[token] is not None:
            raise _damaged(path, f"id {token} belongs to both {texts[token]!r} and {text!r}")
        texts[token] = text
    return tuple(texts)


def merge_pairs(raw: Mapping[str, Any], path: Path) -> tuple[tuple[str, str], ...]:
    """Return the BPE merges as pairs, from "left right" texts or (since 2024) from [left, right] lists."""
    merges = raw["model"].get("merges") or []
    if not isinstance(merges, list):
        raise _damaged(path, "model.merges is not a list")
    pairs = [tuple(item.split(" ")) if isinstance(item, str) else item for item in merges]
    if not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
        for pair in pairs
    ):
        raise _damaged(path, "model.merges has an entry that is not a pair")
    return tuple((left, right) for left, right in pairs)


def _added(entry: object, path: Path) -> AddedToken:
    fields = entry if isinstance(entry, dict) else {}
    number, content = fields.get("id"), fields.get("content")
    if (
        type(number) is not int
        or not 0 <= number < _MOST_TOKENS
        or not isinstance(content, str)
        or not content
    ):
        raise _damaged(path, f"an added token has no proper id and content: {str(entry)[:80]}")
    flags = {
        name: bool(fields.get(name)) for name in ("special", "lstrip", "rstrip", "normalized", "single_word")
    }
    return AddedToken(number, content, **flags)


def _damaged(path: Path, reason: str) -> CheckpointFlaw:
    return CheckpointFlaw(
        "tokenizer-damaged",
        f"{path} is not a sound tokenizer: {reason}.",
        hint="Copy the tokenizer files from the base model, or save the tokenizer again.",
    )
