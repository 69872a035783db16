"""tokenizer.model: reading it, and a checkpoint that has nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from checkpoint import Checkpoint, CheckpointFlaw, PieceKind, Tokenizer, read_pieces, survey
from tests.other_families import write_piece_checkpoint
from tests.sentencepiece_model import NORMAL, USER_DEFINED, tiny_pieces, write_model

_LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def _open(directory: Path, config: dict[str, Any] | None = None, **model: Any) -> Tokenizer:
    pieces = model.pop("pieces", None) or tiny_pieces()
    write_model(directory / "tokenizer.model", pieces, **model)
    (directory / "tokenizer_config.json").write_text(json.dumps(config or _LLAMA), encoding="utf-8")
    return Tokenizer.open(directory)


def _texts(tokenizer: Tokenizer, text: str, **more: Any) -> list[str | None]:
    return [tokenizer.tokens[number] for number in tokenizer.encode(text, **more)]


def test_a_model_is_read(tmp_path: Path) -> None:
    write_model(tmp_path / "tokenizer.model", tiny_pieces(), add_dummy_prefix=False)
    model = read_pieces(tmp_path / "tokenizer.model")
    assert model is not None
    assert (model.kind, model.byte_fallback, model.add_dummy_prefix, model.charsmap) == (
        "bpe",
        True,
        False,
        b"",
    )
    assert [piece.kind for piece in model.pieces[:4]] == [
        PieceKind.UNKNOWN,
        PieceKind.CONTROL,
        PieceKind.CONTROL,
        PieceKind.BYTE,
    ]
    assert model.pieces[260].text == "ll"
    assert model.pieces[260].score == -1.0
    assert read_pieces(tmp_path / "nothing") is None


@pytest.mark.parametrize("data", [b"", b"x", b"\x0a\x7f\x00", b"\xff" * 12, b"\x0a\x02\x0a\x00\x0d\x00"])
def test_a_damaged_model_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(CheckpointFlaw, match="cannot be read as a SentencePiece model") as caught:
        Tokenizer.open(tmp_path)
    assert caught.value.code == "tokenizer-damaged"


def test_text_is_split_by_score(tmp_path: Path) -> None:
    tokenizer = _open(tmp_path)
    assert tokenizer.is_built
    assert _texts(tokenizer, "hello world") == ["▁hello", "▁world"]
    assert _texts(tokenizer, "hello  you é") == ["▁hello", "▁", "▁", "y", "o", "u", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("hello  you é")) == "hello  you é"
    assert tokenizer.encode("hello", add_special_tokens=True)[0] == tokenizer.bos_id == 1
    assert tokenizer.adds_bos
    assert (tokenizer.eos_id, tokenizer.unk_id) == (2, 0)


def test_named_tokens_are_found_in_the_text_and_control_pieces_are_not(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "add_bos_token": False}
    tokenizer = _open(tmp_path, config)
    assert _texts(tokenizer, "<s>hello") == ["<s>", "▁hello"]
    assert "</s>" not in _texts(tokenizer, "</s>")
    assert not tokenizer.adds_bos


def test_llamas_repaired_class_puts_a_space_only_first(tmp_path: Path) -> None:
    tokenizer = _open(tmp_path, {**_LLAMA, "legacy": False})
    assert _texts(tokenizer, "hello<s>hello") == ["▁hello", "<s>", "hello"]
    assert _texts(_open(tmp_path), "hello<s>hello") == ["▁hello", "<s>", "▁hello"]


def test_added_tokens_come_from_both_files(tmp_path: Path) -> None:
    decoder = {
        "309": {"content": "<|im_end|>", "special": True},
        "5": {"content": "<|five|>", "special": True},
        "1": {"content": "<s>", "special": True},
        "320": {"content": "he", "special": False},
    }
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<tool>": 308}), encoding="utf-8")
    tokenizer = _open(tmp_path, {**_LLAMA, "added_tokens_decoder": decoder})
    assert tokenizer.tokens[5] == "<|five|>"
    assert tokenizer.tokens[308:310] == ("<tool>", "<|im_end|>")
    assert tokenizer.tokens[310:] == (*[None] * 10, "he")
    assert [token.special for token in tokenizer.added] == [True, True, True, True, False, True, False]
    assert tokenizer.encode("", add_special_tokens=True) == [1]
    assert tokenizer.encode("<tool><|im_end|><|five|>") == [308, 309, 5]
    (tmp_path / "added_tokens.json").write_text('{"x": "y"}', encoding="utf-8")
    with pytest.raises(CheckpointFlaw, match="something else than an id"):
        Tokenizer.open(tmp_path)


def test_chatglm_appends_its_tokens(tmp_path: Path) -> None:
    tokenizer = _open(tmp_path, {"tokenizer_class": "ChatGLMTokenizer"})
    size = len(tiny_pieces())
    assert tokenizer.tokens[size : size + 3] == ("[MASK]", "[gMASK]", "[sMASK]")
    assert tokenizer.id_of("<|user|>") == size + 6
    assert _texts(tokenizer, "<|user|>hello", add_special_tokens=True) == [
        "[gMASK]",
        "sop",
        "<|user|>",
        "▁hello",
    ]


def test_user_defined_pieces_are_whole(tmp_path: Path) -> None:
    pieces = [*tiny_pieces(), ("<sep>", 0.0, USER_DEFINED), ("▁▁", 0.0, USER_DEFINED), ("q<", -9.0, NORMAL)]
    tokenizer = _open(tmp_path, pieces=pieces)
    assert _texts(tokenizer, "q<sep>a  b") == ["▁", "q", "<sep>", "a", "▁▁", "b"]
    assert _texts(tokenizer, " q</s>q", add_special_tokens=True) == ["<s>", "▁▁", "q", "</s>", "▁", "q"]
    assert tokenizer.id_of("<sep>") == len(pieces) - 3
    legacy = _open(tmp_path, {**_LLAMA, "legacy": False}, pieces=pieces)
    assert _texts(legacy, "q<sep></s>q") == ["▁", "q", "<sep>", "</s>", "q"]


@pytest.mark.parametrize("kind", ["unigram", "word"])
def test_other_kinds_of_models(tmp_path: Path, kind: str) -> None:
    if kind == "unigram":
        assert _texts(_open(tmp_path, bpe=False), "hello") == ["▁hello"]
        return
    write_model(tmp_path / "tokenizer.model", tiny_pieces())
    path = tmp_path / "tokenizer.model"
    path.write_bytes(path.read_bytes() + b"\x12\x02\x18\x03")
    with pytest.raises(CheckpointFlaw, match=r"do not use \(word\)"):
        Tokenizer.open(tmp_path)


def test_a_checkpoint_with_only_a_model_has_no_errors(tmp_path: Path) -> None:
    directory = write_piece_checkpoint(tmp_path / "model", "InternLM2ForCausalLM")
    assert Checkpoint.open(directory).tokenizer.id_of("<|im_end|>") == 317 - 1
    assert not survey(directory).errors


def test_whatever_a_model_holds_there_is_no_traceback(tmp_path: Path) -> None:
    chance = random.Random(3)
    _open(tmp_path)
    path = tmp_path / "tokenizer.model"
    sound, refused = path.read_bytes(), 0
    for _ in range(150):
        data = bytearray(sound)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(bytes(data[: chance.choice([len(data), chance.randrange(1, len(data))])]))
        try:
            Tokenizer.open(tmp_path).encode("hello <s> é 你")
        except CheckpointFlaw:
            refused += 1
    assert 0 < refused < 150
