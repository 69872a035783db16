"""Text to ids by a SentencePiece model that has pieces of the user's own.

SentencePiece takes such pieces whole out of the text after it has put its prefix before it; a
tokenizer.json can only take tokens out before. So the text is cut here, and the `tokenizers` library merges
what lies between. Knows nothing of files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from checkpoint.sentencepiece import PieceKind, PieceModel

__all__ = ["piece_encoder"]

_SPACE = "▁"


def piece_encoder(
    model: PieceModel, raw: Mapping[str, Any], added: Mapping[str, int]
) -> Callable[[str], list[int]] | None:
    """Return what encodes a text; None where `raw`, the same tokenizer as a tokenizer.json, does it exactly.

    added: the tokens that are taken out before SentencePiece sees the text, with their ids.
    """
    user = {
        piece.text: number
        for number, piece in enumerate(model.pieces)
        if piece.kind is PieceKind.USER_DEFINED and piece.text not in added
    }
    if not user or model.charsmap or model.remove_extra_whitespaces:
        return None
    import tokenizers

    bare = {**raw, "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None}
    merge = tokenizers.Tokenizer.from_str(json.dumps(bare))
    prefix = _SPACE if model.add_dummy_prefix else ""
    only_first = raw.get("pre_tokenizer") is not None

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        for section, token in _cut(text, added):
            if section:
                first = not ids or not only_first
                for part, piece in _cut((prefix if first else "") + section.replace(" ", _SPACE), user):
                    ids += merge.encode(part, add_special_tokens=False).ids if part else []
                    ids += [] if piece is None else [user[piece]]
            ids += [] if token is None else [added[token]]
        return ids

    return encode


def _cut(text: str, tokens: Mapping[str, int] | Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield what lies before each of `tokens` (the longest at a place) and the token; last, the rest."""
    at = 0
    if tokens:
        for found in re.finditer("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))), text):
            yield text[at : found.start()], found[0]
            at = found.end()
    yield text[at:], None
