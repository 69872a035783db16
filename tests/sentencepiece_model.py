"""Small SentencePiece models for tests: a ModelProto written by hand, field by field.

`write_model` needs no library; `tiny_pieces` is a BPE with bytes whose scores are the order of its merges.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

__all__ = ["BYTE", "CONTROL", "NORMAL", "UNKNOWN", "UNUSED", "USER_DEFINED", "tiny_pieces", "write_model"]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

_MERGED = ("he", "ll", "llo", "hello", "▁hello", "▁w", "or", "▁wor", "ld", "▁world", "in", "an", "er", "▁t")


def tiny_pieces(*, names: Sequence[str] = ("<unk>", "<s>", "</s>")) -> list[tuple[str, float, int]]:
    """Return (text, score, type) of unknown, BOS, EOS, 256 bytes, 14 merged pieces and single characters."""
    kinds = (UNKNOWN, CONTROL, CONTROL)
    pieces = [(name, 0.0, kind) for name, kind in zip(names, kinds, strict=True)]
    pieces += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    texts = [*_MERGED, "▁", *"abcdefghijklmnopqrstuvwxyz", *"HW.,!?你好"]
    return pieces + [(text, -float(rank), NORMAL) for rank, text in enumerate(texts)]


def write_model(
    path: Path,
    pieces: Sequence[tuple[str, float, int]],
    *,
    bpe: bool = True,
    byte_fallback: bool = True,
    add_dummy_prefix: bool = True,
    remove_extra_whitespaces: bool = False,
    unk_id: int = 0,
) -> None:
    """Write a ModelProto with these pieces, ids by position."""
    body = b"".join(
        _bytes(1, _bytes(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, kind))
        for text, score, kind in pieces
    )
    trainer = _number(3, 2 if bpe else 1) + _number(35, byte_fallback) + _number(40, unk_id)
    normalizer = _bytes(1, b"identity") + _number(3, add_dummy_prefix) + _number(4, remove_extra_whitespaces)
    path.write_bytes(body + _bytes(2, trainer) + _bytes(3, normalizer))


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(int(value))


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
