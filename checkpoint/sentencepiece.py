"""Reading `tokenizer.model`, a serialized SentencePiece ModelProto, without the sentencepiece library.

Knows the few fields that decide how text becomes pieces, by their numbers in sentencepiece_model.proto:

    ModelProto      1 pieces*, 2 trainer_spec, 3 normalizer_spec
    SentencePiece   1 piece, 2 score, 3 type (see PieceKind)
    TrainerSpec     3 model_type (1 unigram, 2 BPE, 3 word, 4 char), 24 treat_whitespace_as_suffix,
                    35 byte_fallback
    NormalizerSpec  1 name, 2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces,
                    5 escape_whitespaces

Does not know what other files of a checkpoint say about tokens.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from checkpoint.findings import CheckpointFlaw
from checkpoint.jsonfile import MEGABYTE, read_bytes

__all__ = ["Piece", "PieceKind", "PieceModel", "pieces_in", "read_pieces"]

_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


class PieceKind(IntEnum):
    """The type of a piece; GGUF uses the same numbers for the types of tokens."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One piece; its place in the list is its id."""

    text: str
    score: float
    kind: PieceKind


@dataclass(frozen=True)
class PieceModel:
    """What a ModelProto says."""

    pieces: tuple[Piece, ...]
    kind: str
    """"unigram", "bpe", "word" or "char"."""
    byte_fallback: bool
    charsmap: bytes
    """The compiled normalization rules; empty where text is taken as it comes."""
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    whitespace_as_suffix: bool


def read_pieces(path: Path) -> PieceModel | None:
    """Read `path`, None for a missing file. Raises `CheckpointFlaw` when it is damaged or something else."""
    content = read_bytes(path, 256 * MEGABYTE)
    return None if content is None else pieces_in(content, path)


def pieces_in(content: bytes, path: Path) -> PieceModel:
    """Return what `content`, that of the file `path`, says. Raises `CheckpointFlaw`."""
    try:
        return _parse(content)
    except ValueError as error:
        raise CheckpointFlaw(
            "tokenizer-damaged",
            f"{path} cannot be read as a SentencePiece model: {error}.",
            hint="Copy it from the base model, or save the tokenizer again.",
        ) from error


def _parse(data: bytes) -> PieceModel:
    """Return what a serialized ModelProto says. Raises `ValueError`."""
    pieces, trainer, normalizer = [], _Message(()), _Message(())
    try:
        for number, value in _protobuf(data):
            if number == 1 and isinstance(value, bytes):
                pieces.append(_piece(_Message(_protobuf(value))))
            elif number == 2 and isinstance(value, bytes):
                trainer = _Message(_protobuf(value))
            elif number == 3 and isinstance(value, bytes):
                normalizer = _Message(_protobuf(value))
    except (struct.error, IndexError):
        raise ValueError("it ends in the middle of a field") from None
    if not pieces:
        raise ValueError("it holds no pieces")
    return PieceModel(
        pieces=tuple(pieces),
        kind=_KINDS.get(trainer.integer(3, 1), "unknown"),
        byte_fallback=bool(trainer.integer(35, 0)),
        charsmap=normalizer.data(2),
        add_dummy_prefix=bool(normalizer.integer(3, 1)),
        remove_extra_whitespaces=bool(normalizer.integer(4, 1)),
        escape_whitespaces=bool(normalizer.integer(5, 1)),
        whitespace_as_suffix=bool(trainer.integer(24, 0)),
    )


class _Message:
    """The last value of each field of a message."""

    def __init__(self, fields: Iterator[tuple[int, int | float | bytes]] | tuple[()]) -> None:
        self._fields: dict[int, int | float | bytes] = dict(fields)

    def integer(self, number: int, default: int) -> int:
        value = self._fields.get(number, default)
        return value if isinstance(value, int) else default

    def data(self, number: int) -> bytes:
        value = self._fields.get(number, b"")
        return value if isinstance(value, bytes) else b""

    def get(self, number: int) -> int | float | bytes | None:
        return self._fields.get(number)


def _piece(message: _Message) -> Piece:
    text, score, kind = message.get(1), message.get(2), message.integer(3, 1)
    score = 0.0 if score is None else score
    if not isinstance(text, bytes) or not isinstance(score, float) or kind not in set(PieceKind):
        raise ValueError("a piece has no text, no score or no known type")
    return Piece(text.decode("utf-8"), score, PieceKind(kind))


def _protobuf(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Yield (field number, value) of a message; 32-bit values as float, 64-bit ones as bytes."""
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
