"""GLM-4's tokenizer.model: tokens by rank."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from checkpoint import CheckpointFlaw, Tokenizer
from tests.glm_checkpoints import GLM4_TOKENS, ranked_bytes

_MERGED = (b"he", b"ll", b"llo", b"hello", b" w", b"or", b" wor", "你".encode()[:2], "你".encode())


def test_ranks_become_merges(tmp_path: Path) -> None:
    ranked_bytes(tmp_path, _MERGED)
    tokenizer = Tokenizer.open(tmp_path)
    assert tokenizer.is_built
    assert tokenizer.merges == (
        ("h", "e"),
        ("l", "l"),
        ("ll", "o"),
        ("he", "llo"),
        ("Ġ", "w"),
        ("o", "r"),
        ("Ġw", "or"),
        ("ä", "½"),
        ("ä½", "ł"),
    )
    assert tokenizer.encode("hello world你") == [259, 262, ord("l"), ord("d"), 264]
    assert tokenizer.decode(tokenizer.encode("hello world你")) == "hello world你"


def test_added_tokens_follow_the_ranks(tmp_path: Path) -> None:
    ranked_bytes(tmp_path, _MERGED)
    tokenizer = Tokenizer.open(tmp_path)
    first = 256 + len(_MERGED)
    assert [token.content for token in tokenizer.added] == list(GLM4_TOKENS)
    assert tokenizer.encode("<|user|>he", add_special_tokens=True) == [first + 2, first + 4, first + 6, 256]
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.adds_bos) == (first, None, False)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"aGVsbG8= 400\n", "not the numbers from 0 on"),
        (b"aGVsbG8 265\n", "line 266 is not a token and its rank"),
        (b"\xff\n", "line 266 is not"),
    ],
)
def test_damaged_ranks_are_refused(tmp_path: Path, line: bytes, message: str) -> None:
    ranked_bytes(tmp_path, _MERGED)
    path = tmp_path / "tokenizer.model"
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(CheckpointFlaw, match=message):
        Tokenizer.open(tmp_path)


def test_missing_bytes_and_unknown_classes_are_refused(tmp_path: Path) -> None:
    ranked_bytes(tmp_path, ())
    (tmp_path / "tokenizer.model").write_bytes(base64.b64encode(b"a") + b" 0\n")
    with pytest.raises(CheckpointFlaw, match="lacks some of the 256 bytes"):
        Tokenizer.open(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Other"}), encoding="utf-8"
    )
    with pytest.raises(CheckpointFlaw, match="how Other cuts text into words is not known"):
        Tokenizer.open(tmp_path)
