"""GLM-4's `tokenizer.model`: not SentencePiece but lines of "base64 rank", the form of the tiktoken library.

Brought into the form of a tokenizer.json: byte-level BPE whose merges follow from the ranks. How text is cut
into words is not in the file; it is a fact of the class that reads it, known here for GLM-4's.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoint.findings import CheckpointFlaw
from checkpoint.pieces import decoder_tokens

__all__ = ["is_ranked", "ranked_as_json"]

_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]{1,8}\r?\n")
_GLM4_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_GLM4_FIRST = ("[gMASK]", "<sop>")
"""What GLM-4's class puts in front of a text."""


def is_ranked(content: bytes) -> bool:
    """Whether the content of a tokenizer.model is ranked tokens in text form."""
    return _LINE.match(content) is not None


def ranked_as_json(content: bytes, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the tokens in `content` in the form of a tokenizer.json; added tokens stay in `config`, which is
    tokenizer_config.json. Raises `CheckpointFlaw`."""
    if config.get("tokenizer_class") not in {"ChatGLM4Tokenizer", "ChatGLMTokenizer"}:
        raise CheckpointFlaw(
            "tokenizer-damaged",
            f"{path} lists tokens by rank, and how {config.get('tokenizer_class')} cuts text into words is "
            "not known.",
            hint="Copy tokenizer.json from the base model.",
        )
    ranks = _ranks(content, path)
    added = {text: number for number, text in decoder_tokens(config)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    words = {"type": "Split", "pattern": {"Regex": _GLM4_WORDS}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, level]},
        "post_processor": _post_processor(added),
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            # The library finds the ids of added tokens here; of those it does not find, it makes up others.
            "vocab": {**{_text(token): rank for token, rank in ranks.items()}, **added},
            "merges": [[_text(left), _text(right)] for left, right in _merges(ranks)],
        },
    }


def _ranks(content: bytes, path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    try:
        for line in content.splitlines():
            if line:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
    except ValueError as error:
        raise _damaged(path, f"line {len(ranks) + 1} is not a token and its rank") from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise _damaged(path, "its ranks are not the numbers from 0 on")
    if not all(bytes([byte]) in ranks for byte in range(256)):
        raise _damaged(path, "it lacks some of the 256 bytes")
    return ranks


def _damaged(path: Path, reason: str) -> CheckpointFlaw:
    return CheckpointFlaw(
        "tokenizer-damaged",
        f"{path} is not a sound list of ranked tokens: {reason}.",
        hint="Copy it from the base model.",
    )


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return, best first, the last merge that makes each token: its two parts when only better merges are
    made."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = _parts(token, ranks, rank)
            if len(parts) == 2:
                merges.append((parts[0], parts[1]))
    return merges


def _parts(token: bytes, ranks: Mapping[bytes, int], limit: int) -> list[bytes]:
    parts = [token[at : at + 1] for at in range(len(token))]
    while len(parts) > 2:
        best, place = limit, -1
        for at in range(len(parts) - 1):
            rank = ranks.get(parts[at] + parts[at + 1], limit)
            if rank < best:
                best, place = rank, at
        if place < 0:
            break
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def _text(token: bytes) -> str:
    return "".join(_LETTERS[byte] for byte in token)


def _letters() -> tuple[str, ...]:
    """Return the characters that byte-level BPE writes for the bytes: printable ones as they are, the others
    from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return tuple(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))


_LETTERS = _letters()


def _post_processor(ids: Mapping[str, int]) -> dict[str, Any] | None:
    if not all(text in ids for text in _GLM4_FIRST):
        return None
    single: list[dict[str, Any]] = [{"SpecialToken": {"id": text, "type_id": 0}} for text in _GLM4_FIRST]
    parts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    return {
        "type": "TemplateProcessing",
        "single": [*single, parts[0]],
        "pair": [*single, *parts],
        "special_tokens": {text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in _GLM4_FIRST},
    }
