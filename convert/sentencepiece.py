"""Vocabularies of the SentencePiece kind (Llama 2, InternLM, Baichuan): GGUF's tokenizer model "llama".

llama.cpp merges by score, best first, where tokenizer.json lists merges. The scores come from tokenizer.model
where the checkpoint has one, and otherwise from the order of the merges, from which the same pieces follow.
(The stock converter gives every piece the score -1000 when tokenizer.model is missing; text is then split
wrongly.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from checkpoint import CheckpointFlaw, PieceModel, Tokenizer, read_pieces
from errors import ConversionError

__all__ = ["adds_space_prefix", "is_sentencepiece", "piece_scores"]

ADDED_SCORE = -1000.0
"""What the stock converter gives to added tokens, which never come out of a merge."""

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def is_sentencepiece(tokenizer: Mapping[str, Any]) -> bool:
    """Whether the object of a tokenizer.json is a BPE over characters that falls back to bytes."""
    model = tokenizer.get("model")
    return isinstance(model, Mapping) and model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def is_byte(token: str) -> bool:
    return _BYTE.fullmatch(token) is not None


def piece_scores(tokenizer: Tokenizer, directory: Path) -> Mapping[str, float]:
    """Return piece -> score, higher merged first. Raises `ConversionError` for a damaged tokenizer.model."""
    model = stored_model(directory)
    if model is None:
        return _scores_from_merges(tokenizer.vocab, tokenizer.merges)
    return {piece.text: piece.score for piece in model.pieces}


def stored_model(directory: Path) -> PieceModel | None:
    """Return what tokenizer.model says, None where there is none. Raises `ConversionError`."""
    try:
        return read_pieces(directory / "tokenizer.model")
    except CheckpointFlaw as error:
        raise ConversionError(
            error.message,
            hint="Copy it from the base model, or remove it where tokenizer.json is there: it says the same.",
        ) from error


def _scores_from_merges(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Number the pieces by the merge that makes them first: 0, -1, …; then those that no merge makes."""
    order = dict.fromkeys(left + right for left, right in merges)
    for piece in sorted(vocab, key=lambda piece: vocab[piece]):
        if not is_byte(piece):
            order.setdefault(piece)
    scores = {piece: -float(rank) for rank, piece in enumerate(order)}
    return scores | {piece: 0.0 for piece in vocab if is_byte(piece)}


def adds_space_prefix(tokenizer: Mapping[str, Any]) -> tuple[bool, bool]:
    """Return (is a space put before a text, also after each special token) by a tokenizer.json."""
    for step in _flat(tokenizer.get("normalizer"), "normalizers"):
        if step.get("type") == "Prepend" and step.get("prepend") == "▁":
            return True, True
    for step in _flat(tokenizer.get("pre_tokenizer"), "pretokenizers"):
        if step.get("type") == "Metaspace":
            scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            return scheme != "never", scheme == "always"
    return False, False


def _flat(node: Any, parts: str) -> Iterator[Mapping[str, Any]]:
    if not isinstance(node, Mapping):
        return
    inner = node.get(parts)
    if isinstance(inner, list):
        for part in inner:
            yield from _flat(part, parts)
    else:
        yield node
