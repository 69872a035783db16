"""The special tokens of a checkpoint as the stock converter of llama.cpp finds them.

It reads the names in tokenizer_config.json, looks them up among the added tokens of tokenizer.json, and takes
the plain ids of config.json where that finds nothing; lists of ids and generation_config.json are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from checkpoint import Checkpoint
from convert.pieces import is_chatglm

__all__ = ["add_flags", "special_ids", "stock_ids"]

_KEYS = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",  # spelt like this in the format
    "pad": "padding",
    "cls": "cls",
    "mask": "mask",
}


def special_ids(checkpoint: Checkpoint, size: int) -> dict[str, int]:
    """Return GGUF's name of a special token -> id, for ids below `size`."""
    config, added = checkpoint.tokenizer.config, _added_ids(checkpoint)
    found: dict[str, int] = {}
    for name, key in _KEYS.items():
        number = added.get(_text(config.get(f"{name}_token")) or "")
        if number is not None:
            found[key] = number
    for name, key in _KEYS.items():
        number = checkpoint.config.raw.get(f"{name}_token_id")
        if type(number) is int and number >= 0:
            found.setdefault(key, number)
    return {key: number for key, number in found.items() if number < size}


def stock_ids(checkpoint: Checkpoint, special: Mapping[str, int]) -> dict[str, int]:
    """Return `special` with what the stock converter sets for some families by the texts of tokens."""
    ids = {token.content: token.id for token in checkpoint.tokenizer.added}
    architecture, found = checkpoint.config.architecture, dict(special)
    for key, text in () if is_chatglm(checkpoint.tokenizer) else _GLM.get(architecture, ()):
        if text in ids:
            found.setdefault(key, ids[text])
    if architecture == "GemmaForCausalLM":
        found["eot"] = _GEMMA_END
    if architecture in _CHAT_END and "<|im_end|>" in _decoded(checkpoint) | set(_added_ids(checkpoint)):
        found["eos"] = ids["<|im_end|>"]
    return found


_ENDS = (("eos", "<|endoftext|>"), ("eot", "<|user|>"), ("unknown", "<|endoftext|>"))
_GLM = {
    "ChatGLMModel": _ENDS,
    "ChatGLMForConditionalGeneration": _ENDS,
    "GlmForCausalLM": _ENDS,
    "Glm4ForCausalLM": (*_ENDS, ("bos", "<|endoftext|>")),
}
_GEMMA_END = 107
"""<end_of_turn> in every Gemma vocabulary."""
_CHAT_END = {"InternLM2ForCausalLM", "InternLM3ForCausalLM"}


def _decoded(checkpoint: Checkpoint) -> set[str]:
    listed = checkpoint.tokenizer.config.get("added_tokens_decoder")
    entries = listed.values() if isinstance(listed, dict) else ()
    return {text for entry in entries if (text := _text(entry))}


def add_flags(checkpoint: Checkpoint) -> dict[str, bool]:
    """Return which special tokens are put around a text: the post-processor's word before the config's."""
    tokenizer = checkpoint.tokenizer
    bos = _text(tokenizer.config.get("bos_token")) or _text(tokenizer.config.get("cls_token"))
    flags: dict[str, bool] = {}
    # What follows from tokenizer.model is not a post-processor that the stock converter could have read.
    processor = None if tokenizer.is_built else tokenizer.raw.get("post_processor")
    for step in _processors(processor):
        if step.get("type") == "ByteLevel":
            flags.setdefault("bos", False)
            flags.setdefault("eos", False)
        elif step.get("type") == "TemplateProcessing":
            single = step.get("single")
            parts = single if isinstance(single, list) and len(single) > 1 else [None]
            first, last = _special_id(parts[0]), _special_id(parts[-1])
            if first is not None:
                flags["bos"] = bos is None or first == bos
            if last is not None:
                flags["eos"] = True
    for name in ("bos", "eos", "sep"):
        stated = tokenizer.config.get(f"add_{name}_token")
        if isinstance(stated, bool):
            flags.setdefault(name, stated)
    # The stock converter takes every llama of this vocabulary size for one that does without BOS.
    if checkpoint.config.vocab_size == 49152 and checkpoint.config.architecture in _LLAMA:
        flags["bos"] = False
    if checkpoint.config.architecture in _WITHOUT_BOS:
        flags.setdefault("bos", False)
    return flags


_WITHOUT_BOS = {"ChatGLMModel", "ChatGLMForConditionalGeneration", "GlmForCausalLM"}
_LLAMA = {"LlamaForCausalLM", "MistralForCausalLM"}


def _added_ids(checkpoint: Checkpoint) -> Mapping[str, int]:
    listed = None if checkpoint.tokenizer.is_built else checkpoint.tokenizer.raw.get("added_tokens")
    items = [item for item in listed if isinstance(item, Mapping)] if isinstance(listed, list) else []
    # Of two entries with one text the first counts.
    return {item["content"]: item["id"] for item in reversed(items) if {"content", "id"} <= item.keys()}


def _processors(node: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(node, Mapping):
        return
    inner = node.get("processors")
    if isinstance(inner, list):
        yield from (part for part in inner if isinstance(part, Mapping))
    else:
        yield node


def _special_id(part: Any) -> str | None:
    inner = part.get("SpecialToken") if isinstance(part, Mapping) else None
    text = inner.get("id") if isinstance(inner, Mapping) else None
    return text if isinstance(text, str) else None


def _text(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) and value else None
