"""A checkpoint that has only `tokenizer.model`: the same facts in the form of a tokenizer.json.

Knows how transformers' slow tokenizers put a SentencePiece model, `added_tokens.json` and the named special
tokens together, and the tokens that ChatGLM's own class appends. From the result everything else follows as
from a tokenizer.json: text by id, added tokens, and encoding through the `tokenizers` library. No code of the
checkpoint is run.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from checkpoint.findings import CheckpointFlaw
from checkpoint.jsonfile import read_object
from checkpoint.sentencepiece import PieceKind, PieceModel

__all__ = ["decoder_tokens", "pieces_as_json", "stored_additions"]

_SPACE = "▁"
_ADD_BOS = frozenset(
    {
        "BaichuanTokenizer",
        "CodeLlamaTokenizer",
        "GemmaTokenizer",
        "InternLM2Tokenizer",
        "InternLM2TokenizerFast",
        "InternLM3Tokenizer",
        "InternLMTokenizer",
        "LlamaTokenizer",
        "LlamaTokenizerFast",
    }
)
"""Classes that put BOS in front of a text unless tokenizer_config.json says otherwise."""
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_CHATGLM = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", *_ROLES)
"""What ChatGLM 3's class appends to its pieces, in this order."""


def pieces_as_json(
    model: PieceModel, config: Mapping[str, Any], special: Mapping[str, Any], directory: Path
) -> dict[str, Any]:
    """Return `model` in the form of a tokenizer.json, its added tokens included.

    config: tokenizer_config.json; special: special_tokens_map.json. Raises `CheckpointFlaw` for a kind of
    model whose splitting is not known here.
    """
    if model.kind not in {"bpe", "unigram"} or model.whitespace_as_suffix or not model.escape_whitespaces:
        raise CheckpointFlaw(
            "tokenizer-damaged",
            f"{directory / 'tokenizer.model'} is a SentencePiece model of a kind that language models do not "
            f"use ({model.kind}).",
            hint="Write a tokenizer.json: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR).",
        )
    texts = {number: piece.text for number, piece in enumerate(model.pieces)} | dict(decoder_tokens(config))
    vocab = {text: number for number, text in texts.items()}
    added = _added_tokens(model, vocab, config, special, directory)
    # The library looks the id of an added token up here; where it finds none, it makes up another.
    vocab |= {entry["content"]: entry["id"] for entry in added}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": _normalizer(model, config),
        "pre_tokenizer": _pre_tokenizer(model, config),
        "post_processor": _post_processor(config, special, vocab),
        "decoder": _decoder(model),
        "model": _bpe(model, vocab) if model.kind == "bpe" else _unigram(model, texts),
    }


def stored_additions(directory: Path) -> dict[str, int]:
    """Return the tokens of added_tokens.json with their ids."""
    listed = read_object(directory / "added_tokens.json") or {}
    if not all(type(number) is int and 0 <= number < 1 << 31 for number in listed.values()):
        raise CheckpointFlaw(
            "tokenizer-damaged",
            f"{directory / 'added_tokens.json'} gives a token something else than an id.",
            hint="Copy the file from the base model, or save the tokenizer again.",
        )
    return listed


def decoder_tokens(config: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield the ids and texts of added_tokens_decoder in tokenizer_config.json."""
    decoder = config.get("added_tokens_decoder")
    for key, entry in decoder.items() if isinstance(decoder, dict) else ():
        text = _text(entry)
        if key.isascii() and key.isdigit() and len(key) < 9 and text:
            yield int(key), text


def _added_tokens(
    model: PieceModel,
    vocab: Mapping[str, int],
    config: Mapping[str, Any],
    special: Mapping[str, Any],
    directory: Path,
) -> list[dict[str, Any]]:
    ids = {**vocab, **stored_additions(directory)}
    if config.get("tokenizer_class") == "ChatGLMTokenizer":
        ids |= {text: len(model.pieces) + number for number, text in enumerate(_CHATGLM)}
        named = dict.fromkeys([*_special_names(config, special), *_CHATGLM], True)
    else:
        named = dict.fromkeys(_special_names(config, special), True)
    wanted = {**dict.fromkeys(stored_additions(directory), False), **named}
    known = {
        text for _, text in decoder_tokens(config)
    }  # with their flags, added by whoever reads the result
    entries = [
        {
            "id": ids[text],
            "content": text,
            "special": flag,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "single_word": False,
        }
        for text, flag in wanted.items()
        if text in ids and text not in known
    ]
    return sorted(entries, key=lambda entry: int(str(entry["id"])))


def _special_names(config: Mapping[str, Any], special: Mapping[str, Any]) -> Iterator[str]:
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "additional_special_tokens"):
        value = config[name] if name in config else special.get(name)
        for entry in value if isinstance(value, list) else [value]:
            if text := _text(entry):
                yield text


def _text(entry: Any) -> str | None:
    value = entry.get("content") if isinstance(entry, Mapping) else entry
    return value if isinstance(value, str) and value else None


def _bpe(model: PieceModel, vocab: Mapping[str, int]) -> dict[str, Any]:
    unknown = next((piece.text for piece in model.pieces if piece.kind is PieceKind.UNKNOWN), None)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown if unknown in vocab else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": False,
        "vocab": dict(vocab),
        "merges": _merges(model, vocab),
    }


def _merges(model: PieceModel, vocab: Mapping[str, int]) -> list[list[str]]:
    """Return every way to make a piece of two, the piece with the best score first."""
    parts = {
        piece.text: number
        for number, piece in enumerate(model.pieces)
        if piece.kind is PieceKind.NORMAL and vocab.get(piece.text) == number
    }
    found: list[tuple[float, int, int, str, str]] = []
    for text, number in parts.items():
        score = model.pieces[number].score
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in parts and right in parts:
                found.append((-score, parts[left], parts[right], left, right))
    found.sort(key=lambda item: item[:3])
    return [[left, right] for *_, left, right in found]


def _unigram(model: PieceModel, texts: Mapping[int, str]) -> dict[str, Any]:
    kinds = [piece.kind for piece in model.pieces]
    return {
        "type": "Unigram",
        "unk_id": kinds.index(PieceKind.UNKNOWN) if PieceKind.UNKNOWN in kinds else None,
        "vocab": [[texts[number], piece.score] for number, piece in enumerate(model.pieces)],
        "byte_fallback": model.byte_fallback,
    }


def _prefix_first(config: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text only where the text begins: Llama's class since its repair."""
    return config.get("legacy") is False and str(config.get("tokenizer_class", "")).startswith("Llama")


def _normalizer(model: PieceModel, config: Mapping[str, Any]) -> dict[str, Any] | None:
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        charsmap = base64.b64encode(model.charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if model.remove_extra_whitespaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if not _prefix_first(config):
        if model.add_dummy_prefix:
            steps.append({"type": "Prepend", "prepend": _SPACE})
        steps.append({"type": "Replace", "pattern": {"String": " "}, "content": _SPACE})
    return {"type": "Sequence", "normalizers": steps} if steps else None


def _pre_tokenizer(model: PieceModel, config: Mapping[str, Any]) -> dict[str, Any] | None:
    if not _prefix_first(config):
        return None
    scheme = "first" if model.add_dummy_prefix else "never"
    return {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": scheme, "split": False}


def _post_processor(
    config: Mapping[str, Any], special: Mapping[str, Any], ids: Mapping[str, int]
) -> dict[str, Any] | None:
    kind = config.get("tokenizer_class")
    first: Sequence[str] = ()
    if kind == "ChatGLMTokenizer":
        first = ("[gMASK]", "sop")
    elif kind in _ADD_BOS:
        bos = _text(config["bos_token"] if "bos_token" in config else special.get("bos_token"))
        first = (bos,) if bos is not None and bos in ids else ()
    if not first:
        return None
    single: list[dict[str, Any]] = [{"SpecialToken": {"id": text, "type_id": 0}} for text in first]
    return {
        "type": "TemplateProcessing",
        "single": [*single, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [*single, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in first},
    }


def _decoder(model: PieceModel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}
