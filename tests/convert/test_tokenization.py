"""Text becomes the same ids in llama.cpp, served from our GGUF, as by the checkpoint's tokenizer.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from chat_templates.stops import Stops
from checkpoint import Checkpoint
from convert import plan_conversion, run_conversion
from convert.pretokenizers import DEEPSEEK_LETTERS
from convert.reader import read_gguf
from convert.vocabulary import TokenType
from tests.checkpoints import tiny_tokenizer, write_random_checkpoint
from tests.convert.llamacpp_server import LlamaCpp, llamacpp
from tests.convert.oracle import llamacpp_source
from tests.convert.texts import hard_texts

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_WORDS = {**_BYTES, "use_regex": True}
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"


def _split(*patterns: str) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]
    return {"type": "Sequence", "pretokenizers": [*steps, _BYTES]}


def _deepseek(*patterns: str) -> dict[str, Any]:
    steps = _split(*patterns)["pretokenizers"]
    return {
        "type": "Sequence",
        "pretokenizers": [*steps[:-1], {"type": "Digits", "individual_digits": True}, _BYTES],
    }


MANY = 10_000

KNOWN = {"deepseek-llm": re.compile(r"\s\s\u3000")}
"""Rule -> what the texts hold that llama.cpp itself splits otherwise: measured, it keeps white space together
in front of an ideographic space, where tokenizer.json takes it apart."""

_CJK = "[一-龥ࠀ-一가-퟿]+"
RULES: dict[str, tuple[Mapping[str, Any], bool]] = {
    "gpt-2": (_WORDS, False),
    "qwen2": (_split(rf"{_HEAD}|\p{{N}}|{_TAIL}"), False),
    "llama-bpe": (_split(rf"{_HEAD}|\p{{N}}{{1,3}}|{_TAIL}"), True),
    "smaug-bpe": (_split(rf"{_HEAD}|\p{{N}}{{1,3}}|{_TAIL}"), False),
    "qwen35": (
        _split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
            r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        False,
    ),
    "deepseek-v3": (
        _split(
            r"\p{N}{1,3}",
            "[一-龥\u3040-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
            "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
            "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
        ),
        False,
    ),
    "deepseek-llm": (
        _deepseek("[\r\n]", DEEPSEEK_LETTERS, "\\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", _CJK),
        False,
    ),
    "deepseek-coder": (_deepseek("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK), False),
}
"""llama.cpp's name -> (pre_tokenizer of a tokenizer.json, ignore_merges)."""


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.engines)], ids=["some", "many"])
def many(request: pytest.FixtureRequest) -> bool:
    """Whether to compare 10,000 texts, which takes minutes, or the first of them."""
    return bool(request.param)


def test_the_sample_tokenizes_alike(many: bool, sample: Path, tmp_path: Path) -> None:
    _compare(sample, tmp_path, "smollm", MANY if many else 1500)


@pytest.mark.parametrize(
    ("rule", "many"),
    [
        *((rule, False) for rule in ("llama-bpe", "gpt-2")),
        *(pytest.param(rule, True, marks=pytest.mark.engines) for rule in RULES),
    ],
)
def test_other_rules_tokenize_alike(rule: str, many: bool, sample: Path, tmp_path: Path) -> None:
    raw = json.loads((sample / "tokenizer.json").read_text(encoding="utf-8"))
    raw["pre_tokenizer"], raw["model"]["ignore_merges"] = RULES[rule]
    _compare(_tiny(tmp_path, raw), tmp_path, rule, MANY if many else 500)


def test_sentencepiece_tokenizes_alike(many: bool, tmp_path: Path) -> None:
    directory = _tiny(tmp_path, _pieces())
    _compare(directory, tmp_path, "default", MANY if many else 1500)


@pytest.mark.engines
@pytest.mark.parametrize("rule", ["gpt-2", "qwen2", "qwen35", "llama-bpe", "deepseek-llm", "deepseek-coder"])
def test_real_vocabularies_tokenize_alike(rule: str, tmp_path: Path) -> None:
    """Tokens and merges of GPT-2, Qwen2, Llama 3 and others, as llama.cpp keeps them for its tests."""
    stored = read_gguf(llamacpp_source() / "models" / f"ggml-vocab-{rule}.gguf", arrays="all").metadata
    _compare(_tiny(tmp_path, _as_json(stored, *RULES[rule])), tmp_path, rule, MANY)


def _compare(directory: Path, tmp_path: Path, rule: str, texts: int) -> None:
    checkpoint = Checkpoint.open(directory)
    stops = Stops(ids=(checkpoint.tokenizer.eos_id or 0,))
    plan = plan_conversion(checkpoint, ["q8_0"], tmp_path / "out", stops=stops)
    assert {field.key: field.value for field in plan.files[0].fields}["tokenizer.ggml.pre"] == rule
    (file,) = run_conversion(plan)
    marks = [token.content for token in checkpoint.tokenizer.added]
    with llamacpp(file.path, tmp_path / "log") as server:
        different = [text for text in hard_texts(texts, marks) if not _same(checkpoint, server, text)]
    assert [text for text in different if rule not in KNOWN or not KNOWN[rule].search(text)] == []


def _same(checkpoint: Checkpoint, server: LlamaCpp, text: str) -> bool:
    return server.tokenize(text) == checkpoint.tokenizer.encode(text)


def _tiny(tmp_path: Path, raw: Mapping[str, Any]) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(raw, ensure_ascii=False), encoding="utf-8")
    return write_random_checkpoint(
        tmp_path / "tiny", hidden=32, layers=1, heads=2, intermediate=32, tied=True, tokenizer=path
    )


def _as_json(
    stored: Mapping[str, Any], pre_tokenizer: Mapping[str, Any], ignore_merges: bool
) -> dict[str, Any]:
    """Return the vocabulary of a GGUF as a tokenizer.json, with the turn marks that `_tiny` needs."""
    raw = tiny_tokenizer()
    flags = {key: value for key, value in raw["added_tokens"][0].items() if key not in {"id", "content"}}
    tokens, kinds = stored["tokenizer.ggml.tokens"], stored["tokenizer.ggml.token_type"]
    marks = {entry["content"] for entry in raw["added_tokens"]} - set(tokens)
    tokens, kinds = [*tokens, *sorted(marks)], [*kinds, *[TokenType.CONTROL] * len(marks)]
    ids = {text: number for number, text in enumerate(tokens) if kinds[number] == TokenType.NORMAL}
    raw["added_tokens"] = [
        {"id": number, "content": text, **flags, "special": kinds[number] == TokenType.CONTROL}
        for number, text in enumerate(tokens)
        if kinds[number] in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]
    merges = list(stored["tokenizer.ggml.merges"])
    raw["model"] |= {"vocab": ids, "merges": merges, "ignore_merges": ignore_merges}
    raw["pre_tokenizer"] = pre_tokenizer
    return raw


def _pieces() -> dict[str, Any]:
    """Train a small tokenizer.json like SentencePiece's: spaces as U+2581, unknown characters as bytes."""
    import tokenizers
    from tokenizers import models, normalizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(hard_texts(400, seed=1)[30:], trainer)
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    raw: dict[str, Any] = json.loads(tokenizer.to_str())
    raw["added_tokens"] = [entry for entry in raw["added_tokens"] if not entry["content"].startswith("<0x")]
    return raw
