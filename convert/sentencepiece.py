"""Vocabularies of the SentencePiece kind (Llama 2, Mistral): GGUF's tokenizer model "llama".

llama.cpp merges by score, best first, where tokenizer.json lists merges. The scores come from tokenizer.model
where the checkpoint has one, and otherwise from the order of the merges, from which the same pieces follow.
(The stock converter gives every piece the score -1000 when tokenizer.model is missing; text is then split
wrongly.)
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from checkpoint import Tokenizer
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
    stored = directory / "tokenizer.model"
    if stored.is_file():
        try:
            if pieces := dict(_stored_pieces(stored.read_bytes())):
                return pieces
            raise ValueError("it holds no pieces")
        except (OSError, ValueError, struct.error, IndexError) as error:
            raise ConversionError(
                f"{stored} cannot be read as a SentencePiece model: {error}.",
                hint="Copy it from the base model, or remove it: tokenizer.json says the same.",
            ) from error
    return _scores_from_merges(tokenizer.vocab, tokenizer.merges)


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


def _stored_pieces(data: bytes) -> Iterator[tuple[str, float]]:
    """Yield (piece, score) of a serialized ModelProto: field 1, repeated, of {1: piece, 2: score}."""
    for number, value in _protobuf(data):
        if number == 1 and isinstance(value, bytes):
            fields = dict(_protobuf(value))
            piece, score = fields.get(1), fields.get(2, 0.0)
            if not isinstance(piece, bytes) or not isinstance(score, float):
                raise ValueError("a piece has no text or no score")
            yield piece.decode("utf-8"), score


def _protobuf(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Yield (field number, value) of a protobuf message; 32-bit values as float, 64-bit ones as bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire == 5:
            yield number, struct.unpack_from("<f", data, at)[0]
            at += 4
        else:
            length, at = (8, at) if wire == 1 else _varint(data, at)
            if wire not in {1, 2} or at + length > len(data):
                raise ValueError(f"it is damaged at byte {at}")
            yield number, data[at : at + length]
            at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError(f"it is damaged at byte {at}")
