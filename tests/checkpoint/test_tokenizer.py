"""The tokenizer's files: tokens by id, named tokens, added tokens, and ids equal to the library's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from checkpoint import CheckpointFlaw, Tokenizer
from checkpoint.vocabulary import AddedToken
from errors import BadInput
from tests.checkpoints import edit_json, tiny_tokenizer

TEXTS = [
    "",
    "Hello, world!",
    "test  12 3456 x7",
    "naïve — 日本語 🙂\u200d↔️",
    "<|im_start|>user\nhi<|im_end|>\n",
    "\t tabs\r\nand   spaces ",
    "a\u0301\u00a0b",
]


def _tokenizer(
    raw: dict[str, Any] | None = None, config: dict[str, Any] | None = None, **special: Any
) -> Tokenizer:
    return Tokenizer(Path("tokenizer.json"), raw or tiny_tokenizer(), config or {}, special)


def test_the_sample(sample: Path) -> None:
    tokenizer = Tokenizer.open(sample)
    assert len(tokenizer.tokens) == 49152
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id) == (1, 2, 2, 0)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    assert not tokenizer.adds_bos
    assert len(tokenizer.added) == 17
    assert tokenizer.added[2] == AddedToken(2, "<|im_end|>")
    assert tokenizer.tokens[2] == "<|im_end|>"
    assert len(tokenizer.merges) == 48900
    assert tokenizer.merges[0] == ("Ġ", "t")
    assert tokenizer.pre_tokenizer["pretokenizers"][0]["type"] == "Digits"
    theirs = tokenizers.Tokenizer.from_file(str(sample / "tokenizer.json"))
    for text in TEXTS:
        assert tokenizer.encode(text) == theirs.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_stand_alone(sample: Path) -> None:
    tokenizer = Tokenizer.open(sample)
    assert [tokenizer.tokens[token] for token in tokenizer.encode("test  12")] == ["test", "ĠĠ", "1", "2"]


def test_id_of_is_exactly_one_token() -> None:
    tokenizer = _tokenizer()
    assert tokenizer.id_of("<|im_end|>") == 270
    assert tokenizer.id_of("hello") == 259
    assert tokenizer.id_of("hello hello") is None
    assert tokenizer.id_of("") is None
    assert tokenizer.id_of("Ġw") is None  # the way it is stored, not a text that encodes to it


def test_named_tokens_come_as_text_or_as_objects() -> None:
    config = {"eos_token": {"content": "<|im_end|>", "lstrip": False}, "bos_token": None, "unk_token": ""}
    tokenizer = _tokenizer(None, config, bos_token="<|im_start|>", pad_token={"content": "<|endoftext|>"})
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.bos_token is None  # tokenizer_config.json says so, whatever the map says
    assert tokenizer.pad_id == 268
    assert tokenizer.unk_token is None
    assert tokenizer.unk_id is None
    assert _tokenizer(None, {"eos_token": "<unknown>"}).eos_id is None


def _template(*tokens: str) -> dict[str, Any]:
    single: list[Any] = [{"SpecialToken": {"id": token, "type_id": 0}} for token in tokens]
    ids = {"<|im_start|>": 269, "<|endoftext|>": 268}
    return {
        "type": "TemplateProcessing",
        "single": [*single, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in tokens},
    }


BOS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


@pytest.mark.parametrize(
    ("processor", "config", "adds", "ids"),
    [
        (None, BOS, False, [72]),
        (_template("<|im_start|>"), BOS, True, [269, 72]),
        (_template("<|endoftext|>"), BOS, False, [268, 72]),
        (_template("<|im_start|>"), {}, False, [269, 72]),
        ({"type": "Sequence", "processors": [_template("<|im_start|>")]}, BOS, True, [269, 72]),
        (None, {**BOS, "add_bos_token": True}, True, [269, 72]),
        (None, {**BOS, "add_bos_token": True, "add_eos_token": True}, True, [269, 72, 270]),
        (_template("<|im_start|>"), {**BOS, "add_bos_token": False}, False, [72]),
        (_template("<|im_start|>"), {**BOS, "add_eos_token": False}, False, [72]),
        (None, {"add_bos_token": True}, False, [72]),
    ],
)
def test_who_puts_bos_in_front(processor: Any, config: dict[str, Any], adds: bool, ids: list[int]) -> None:
    tokenizer = _tokenizer({**tiny_tokenizer(), "post_processor": processor}, config)
    byte_id = tiny_tokenizer()["model"]["vocab"]["H"]
    assert tokenizer.adds_bos is adds
    assert tokenizer.encode("H", add_special_tokens=True) == [byte_id if item == 72 else item for item in ids]
    assert tokenizer.encode("H") == [byte_id]


def test_tokens_only_tokenizer_config_knows() -> None:
    decoder = {
        "271": {"content": "<tool>", "special": False, "normalized": True},
        "270": {"content": "<|im_end|>", "special": True},
    }
    tokenizer = _tokenizer(None, {"added_tokens_decoder": decoder})
    assert tokenizer.tokens[271] == "<tool>"
    assert tokenizer.added[-1] == AddedToken(271, "<tool>", special=False, normalized=True)
    assert tokenizer.encode("hello<tool>") == [259, 271]
    assert tokenizer.decode([271, 270, 9999, -1], skip_special_tokens=True) == "<tool>"


def test_ids_without_a_token_are_none() -> None:
    raw = tiny_tokenizer()
    raw["added_tokens"][2]["id"] = 275
    tokenizer = _tokenizer(raw)
    assert tokenizer.tokens[270:] == (None, None, None, None, None, "<|im_end|>")


def test_merges_in_both_spellings() -> None:
    raw = tiny_tokenizer()
    pairs = [merge.split(" ") for merge in raw["model"]["merges"]]
    assert _tokenizer({**raw, "model": {**raw["model"], "merges": pairs}}).merges == _tokenizer(raw).merges
    assert _tokenizer({**raw, "model": {**raw["model"], "merges": []}}).merges == ()


def test_a_unigram_vocabulary() -> None:
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁a", -1.0], ["a", -2.0]]}
    tokenizer = _tokenizer({"version": "1.0", "model": model})
    assert tokenizer.vocab == {"<unk>": 0, "▁a": 1, "a": 2}
    assert tokenizer.merges == ()
    assert tokenizer.encode("aa") == [2, 2]


def _changed(**model: Any) -> dict[str, Any]:
    raw = tiny_tokenizer()
    return {**raw, "model": {**raw["model"], **model}}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"model": None}, "no model.vocab"),
        ({"model": {"vocab": {}}}, "no model.vocab"),
        (_changed(vocab={"a": -1}), "id that is not a number"),
        (_changed(vocab={"a": 10**12}), "id that is not a number"),
        (_changed(vocab={"a": True}), "id that is not a number"),
        (_changed(vocab=[["a"]]), "not a [token, score] pair"),
        (_changed(vocab={"a": 0, "b": 0}), "id 0 belongs to both 'a' and 'b'"),
        ({**tiny_tokenizer(), "added_tokens": "x"}, "not a list"),
        ({**tiny_tokenizer(), "added_tokens": [{"id": 300}]}, "no proper id and content"),
        ({**tiny_tokenizer(), "added_tokens": [{"id": 3.0, "content": "x"}]}, "no proper id and content"),
        ({**tiny_tokenizer(), "added_tokens": [{"id": 5, "content": "x"}]}, "id 5 belongs to both"),
    ],
)
def test_damaged_files(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointFlaw, match=r"tokenizer\.json") as caught:
        _tokenizer(raw)
    assert caught.value.code == "tokenizer-damaged"
    assert words in caught.value.message


@pytest.mark.parametrize("merges", ["x", [["a"]], ["a b c"], [3], [["a", 3]]])
def test_damaged_merges(merges: object) -> None:
    tokenizer = _tokenizer(_changed(merges=merges))
    with pytest.raises(CheckpointFlaw, match=r"model\.merges"):
        _ = tokenizer.merges


@pytest.mark.parametrize(
    "raw",
    [
        _changed(merges=["zz zz"]),
        _changed(type="Nonsense"),
        {**tiny_tokenizer(), "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}}},
        {**tiny_tokenizer(), "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"model": {"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]}},
        {
            "model": {
                "type": "WordPiece",
                "vocab": {"a": 0},
                "unk_token": "[UNK]",
                "max_input_chars_per_word": 9,
            }
            | {"continuing_subword_prefix": "##"}
        },
    ],
)
def test_what_the_library_refuses_is_a_flaw(raw: dict[str, Any]) -> None:
    with pytest.raises(CheckpointFlaw, match="tokenizers library"):
        _tokenizer(raw).encode("b")


def test_text_that_is_no_unicode() -> None:
    with pytest.raises(BadInput, match="cannot be encoded"):
        _tokenizer().encode("\ud83d")


def test_files_in_a_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFlaw, match=r"neither tokenizer\.json nor tokenizer\.model") as caught:
        Tokenizer.open(tmp_path)
    assert caught.value.code == "tokenizer-missing"
    (tmp_path / "vocab.json").write_bytes(b"{}")
    with pytest.raises(CheckpointFlaw, match="older tokenizer files") as caught:
        Tokenizer.open(tmp_path)
    assert "save_pretrained" in (caught.value.hint or "")
    (tmp_path / "tokenizer.json").write_text(json.dumps(tiny_tokenizer()), encoding="utf-8")
    edit_json(tmp_path / "special_tokens_map.json", eos_token="<|im_end|>")
    assert Tokenizer.open(tmp_path).eos_id == 270
    edit_json(tmp_path / "tokenizer_config.json", eos_token=7)
    with pytest.raises(CheckpointFlaw, match="eos_token that is not text"):
        Tokenizer.open(tmp_path)
