"""Tokens, merges, special ids and flags as they stand in the file."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoint import Checkpoint
from convert import plan_conversion
from convert.pretokenizers import PRE_TOKENIZERS, pre_tokenizer_name
from convert.vocabulary import TokenType, Vocabulary, read_vocabulary
from errors import ConversionError, UsageError
from tests.checkpoints import edit_json, tiny_tokenizer
from tests.convert.oracle import llamacpp_source

Make = Callable[..., Path]


def _read(directory: Path, stop_ids: tuple[int, ...] | None = None) -> Vocabulary:
    return read_vocabulary(Checkpoint.open(directory), stop_ids)


def _edit_tokenizer(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "tokenizer.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    change(raw)
    path.write_text(json.dumps(raw, ensure_ascii=False), encoding="utf-8")


def _added(number: int, content: str, *, special: bool = False) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": content, "special": special, **flags}


def test_token_types_and_padding(make_checkpoint: Make) -> None:
    directory = make_checkpoint(vocab=280)
    added = [_added(271, "▁two"), _added(272, "<|mark|>"), _added(273, "<tool>", special=True)]
    _edit_tokenizer(directory, lambda raw: raw["added_tokens"].extend(added))
    vocabulary = _read(directory)
    assert len(vocabulary.tokens) == 280
    assert vocabulary.tokens[271:276] == (" two", "<|mark|>", "<tool>", "[PAD274]", "[PAD275]")
    assert vocabulary.types[270:275] == (
        TokenType.CONTROL,
        TokenType.USER_DEFINED,
        TokenType.CONTROL,
        TokenType.CONTROL,
        TokenType.UNUSED,
    )
    assert set(vocabulary.types[:268]) == {TokenType.NORMAL}


@pytest.mark.parametrize("spelling", ["h e", ["h", "e"]])
def test_both_spellings_of_merges(make_checkpoint: Make, spelling: Any) -> None:
    directory = make_checkpoint()

    def respell(raw: dict[str, Any]) -> None:
        merges = raw["model"]["merges"]
        raw["model"]["merges"] = merges if isinstance(spelling, str) else [one.split(" ") for one in merges]

    _edit_tokenizer(directory, respell)
    assert _read(directory).merges[0] == "h e"


def test_special_ids_and_flags_as_is(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    special = {"bos": 269, "eos": 270, "unknown": 268}
    assert _read(directory).special == special
    assert _read(directory).add == {}
    edit_json(directory / "tokenizer_config.json", add_bos_token=True, add_eos_token=False)
    assert _read(directory).add == {"bos": True, "eos": False}
    processor = {"type": "ByteLevel", "trim_offsets": False, "add_prefix_space": True, "use_regex": True}
    _edit_tokenizer(directory, lambda raw: raw.update(post_processor=processor))
    assert _read(directory).add == {"bos": False, "eos": False}


def test_a_template_processor_adds_bos(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    part = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    processor = {
        "type": "TemplateProcessing",
        "single": [part, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [part, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [269], "tokens": ["<|im_start|>"]}},
    }
    _edit_tokenizer(directory, lambda raw: raw.update(post_processor=processor))
    assert _read(directory).add == {"bos": True}
    assert _read(directory, (270,)).add == {"bos": True, "eos": False}


def test_repaired_flags_are_always_written(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    vocabulary = _read(directory, (270, 268))
    assert vocabulary.add == {"bos": False, "eos": False}
    assert vocabulary.special == {"bos": 269, "eos": 270, "eot": 268, "unknown": 268}


def test_ids_beyond_the_embedding_are_refused(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    _edit_tokenizer(directory, lambda raw: raw["added_tokens"].append(_added(271, "<new>", special=True)))
    with pytest.raises(ConversionError, match="ids up to 271, but the embedding has only 271 rows"):
        _read(directory)


def test_tokens_of_one_text_are_refused(make_checkpoint: Make) -> None:
    directory = make_checkpoint(vocab=280)
    _edit_tokenizer(directory, lambda raw: raw["model"]["vocab"].update({"[PAD275]": 271}))
    with pytest.raises(ConversionError, match=r"'\[PAD275\]' two ids, 271 and 275"):
        _read(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "kind 'WordPiece'"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizes text with Lowercase"),
        (
            {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}},
            "with NFKC",
        ),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "The nearest it has"),
        ({"pre_tokenizer": None}, "no pre-tokenizer that splits"),
    ],
)
def test_foreign_tokenizers_are_refused(make_checkpoint: Make, change: dict[str, Any], message: str) -> None:
    directory = make_checkpoint()
    _edit_tokenizer(directory, lambda raw: raw.update(change))
    with pytest.raises(ConversionError, match=message):
        _read(directory)


@pytest.mark.parametrize("name", ["continuing_subword_prefix", "end_of_word_suffix"])
def test_foreign_affixes_are_refused(make_checkpoint: Make, name: str) -> None:
    directory = make_checkpoint()
    _edit_tokenizer(directory, lambda raw: raw["model"].update({name: "##"}))
    with pytest.raises(ConversionError, match=name):
        _read(directory)


def test_nfc_is_reported(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    _edit_tokenizer(directory, lambda raw: raw.update(normalizer={"type": "NFC"}))
    assert [finding.code for finding in _read(directory).findings] == ["normalizer-ignored"]


def test_the_nearest_rule_is_named() -> None:
    raw = tiny_tokenizer()
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+"
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {**raw["pre_tokenizer"], "use_regex": False}
    raw["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    with pytest.raises(ConversionError, match=r"The nearest it has: (llama-bpe|smaug-bpe|qwen2), "):
        pre_tokenizer_name(raw)


def test_merges_are_not_skipped_where_llamacpp_does_not() -> None:
    raw = tiny_tokenizer()
    raw["model"]["ignore_merges"] = True
    with pytest.raises(ConversionError, match="like gpt-2, but its ignore_merges is True"):
        pre_tokenizer_name(raw)


def _pieces(directory: Path) -> None:
    """Make the tokenizer SentencePiece's kind: `<unk>`, bytes, and a few pieces."""
    tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "ab", "▁ab", "<|im_start|>", "<|im_end|>"]
    model = {
        "type": "BPE",
        "byte_fallback": True,
        "fuse_unk": True,
        "unk_token": "<unk>",
        "vocab": {text: number for number, text in enumerate(tokens[:9])},
        "merges": ["a b", "▁ ab", "▁a b"],
    }
    added = [_added(number, tokens[number], special=True) for number in (0, 1, 2, 9, 10)]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]}
    change = {"model": model, "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": None}
    _edit_tokenizer(directory, lambda raw: raw.update(change))


def test_sentencepiece_scores_follow_the_merges(make_checkpoint: Make) -> None:
    directory = make_checkpoint(vocab=12)
    _pieces(directory)
    vocabulary = _read(directory)
    assert (vocabulary.model, vocabulary.pre, vocabulary.merges) == ("llama", "default", ())
    assert vocabulary.scores is not None
    scores = dict(zip(vocabulary.tokens, vocabulary.scores, strict=True))
    assert scores["ab"] > scores["▁ab"] > scores["a"]
    assert scores["<s>"] == scores["<unk>"] == -1000.0
    assert vocabulary.types[3] == TokenType.BYTE
    assert vocabulary.types[11] == TokenType.UNUSED
    assert _read(directory, (10,)).space_prefix is True


def test_sentencepiece_scores_come_from_tokenizer_model(make_checkpoint: Make) -> None:
    directory = make_checkpoint(vocab=12)
    _pieces(directory)
    pieces = b"".join(_piece(text, score) for text, score in (("ab", -1.5), ("▁ab", -0.5), ("<unk>", 0.0)))
    (directory / "tokenizer.model").write_bytes(pieces + b"\x12\x02\x08\x01")
    vocabulary = _read(directory)
    assert vocabulary.scores is not None
    assert vocabulary.scores[7:9] == (-1.5, -0.5)


def _piece(text: str, score: float) -> bytes:
    data = text.encode()
    inner = b"\x0a" + bytes([len(data)]) + data + b"\x15" + struct.pack("<f", score)
    return b"\x0a" + bytes([len(inner)]) + inner


@pytest.mark.parametrize("damage", [b"\x0a\x7f\x00", b"\xff" * 12, b"", b"\x0b", b"\x0d\x00"])
def test_a_damaged_tokenizer_model_is_refused(make_checkpoint: Make, damage: bytes) -> None:
    directory = make_checkpoint(vocab=12)
    _pieces(directory)
    (directory / "tokenizer.model").write_bytes(damage)
    with pytest.raises(ConversionError, match="cannot be read as a SentencePiece model"):
        _read(directory)


@pytest.mark.parametrize(
    ("scheme", "prefix", "codes"),
    [("always", True, []), ("first", True, ["space-prefix-after-special"]), ("never", False, [])],
)
def test_metaspace_schemes(make_checkpoint: Make, scheme: str, prefix: bool, codes: list[str]) -> None:
    directory = make_checkpoint(vocab=12)
    _pieces(directory)
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    _edit_tokenizer(directory, lambda raw: raw.update(normalizer=None, pre_tokenizer=metaspace))
    vocabulary = _read(directory, (10,))
    assert vocabulary.space_prefix is prefix
    assert [finding.code for finding in vocabulary.findings] == codes


def test_a_user_can_insist_on_a_pre_tokenizer_that_llamacpp_has(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    _edit_tokenizer(directory, lambda raw: raw.update({"pre_tokenizer": {"type": "Whitespace"}}))
    checkpoint = Checkpoint.open(directory)
    with pytest.raises(ConversionError, match="--pre NAME"):
        plan_conversion(checkpoint, ("q8_0",))
    with pytest.raises(UsageError, match="Did you mean qwen2"):
        plan_conversion(checkpoint, ("q8_0",), pre="qwen-2")
    plan = plan_conversion(checkpoint, ("q8_0",), pre="qwen2")
    assert {field.key: field.value for field in plan.files[0].fields}["tokenizer.ggml.pre"] == "qwen2"
    assert "pre-tokenizer-insisted" in {finding.code for finding in plan.findings}


@pytest.mark.engines
def test_the_names_are_those_of_llamacpp() -> None:
    source = (llamacpp_source() / "src" / "llama-vocab.cpp").read_text(encoding="utf-8")
    assert set(re.findall(r'tokenizer_pre == "([^"]+)"', source)) == set(PRE_TOKENIZERS)
