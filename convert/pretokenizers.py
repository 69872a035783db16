"""Which of llama.cpp's pre-tokenizers splits text as a tokenizer.json does.

llama.cpp has its splitting rules compiled in, each under a name (tokenizer.ggml.pre). The stock converter
finds the name by hashing what a tokenizer makes of a test text, so it knows published vocabularies only; here
the rule itself is compared, which holds for any vocabulary trained or extended with it. The rules are
facts of src/llama-vocab.cpp and of the tokenizer.json files of the models named.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from errors import ConversionError

__all__ = ["APPROXIMATE", "pre_tokenizer_name"]

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_QWEN2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}|{_REST_SLASH}"
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_REST_SLASH}"
)
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)

_BYTES = ("bytes",)
_GPT2 = ("gpt-2 words", "bytes")


def _split(*patterns: str) -> tuple[str, ...]:
    return (*(f"split {pattern}" for pattern in patterns), *_BYTES)


_KNOWN: dict[tuple[tuple[str, ...], bool], str] = {
    (_GPT2, False): "gpt-2",
    (("digits", *_GPT2), False): "smollm",
    (_split(_QWEN2), False): "qwen2",
    (_split(_QWEN35), False): "qwen35",
    (_split(_LLAMA3), True): "llama-bpe",
    (_split(_LLAMA3), False): "smaug-bpe",
    (_split(_TEKKEN), True): "tekken",
    (_split(_GPT4O), False): "gpt-4o",
    (_split(*_DEEPSEEK_V3), False): "deepseek-v3",
}
"""(steps, does a word that is a token skip the merges) -> llama.cpp's name."""

APPROXIMATE = frozenset({"gpt-4o", "tekken"})
"""Rules that llama.cpp has under a name but follows only roughly: it takes no combining marks into words."""


def pre_tokenizer_name(tokenizer: Mapping[str, Any]) -> str:
    """Return the value of tokenizer.ggml.pre for the object of a tokenizer.json with a byte-level BPE.

    Raises `ConversionError`, naming the nearest rules that llama.cpp has, when it has none that splits like
    this one: the model would be fed other tokens than it was trained on.
    """
    model = tokenizer.get("model")
    ignore_merges = bool(model.get("ignore_merges")) if isinstance(model, Mapping) else False
    steps = _steps(tokenizer.get("pre_tokenizer"))
    found = _KNOWN.get((steps, ignore_merges))
    if found is not None:
        return found
    same = [name for (known, _), name in _KNOWN.items() if known == steps]
    if same:
        raise ConversionError(
            f"tokenizer.json splits text like {' and '.join(same)}, but its ignore_merges is "
            f"{ignore_merges}, which llama.cpp does not combine with that.",
            hint="Compare tokenizer.json with the base model's.",
        )
    near = _nearest(steps)
    raise ConversionError(
        f"llama.cpp has no pre-tokenizer that splits text as this tokenizer.json does: {_brief(tokenizer)}.",
        hint=f"The nearest it has: {', '.join(near)}. If the tokenizer was saved by another version of "
        "transformers, copy tokenizer.json from the base model.",
    )


def _steps(node: Any) -> tuple[str, ...]:
    """Return a pre-tokenizer as steps in a spelling of our own, so that equal rules compare equal."""
    if not isinstance(node, Mapping):
        return (f"unknown {json.dumps(node)}",)
    kind = node.get("type")
    if kind == "Sequence":
        parts = node.get("pretokenizers")
        return tuple(step for part in parts for step in _steps(part)) if isinstance(parts, list) else ()
    if kind == "ByteLevel" and not node.get("add_prefix_space"):
        return _GPT2 if node.get("use_regex", True) else _BYTES
    if kind == "Digits" and node.get("individual_digits"):
        return ("digits",)
    pattern = node.get("pattern")
    if kind == "Split" and isinstance(pattern, Mapping) and isinstance(pattern.get("Regex"), str):
        # The patterns match every character, so keeping the matches alone keeps everything.
        keeps = (node.get("behavior"), bool(node.get("invert")))
        if keeps in {("Isolated", False), ("Removed", True), ("Isolated", True)}:
            return (f"split {pattern['Regex']}",)
    return (f"unknown {json.dumps(node, ensure_ascii=False, sort_keys=True)}",)


def _nearest(steps: tuple[str, ...]) -> list[str]:
    text = "\n".join(steps)

    def likeness(item: tuple[tuple[tuple[str, ...], bool], str]) -> float:
        return difflib.SequenceMatcher(None, text, "\n".join(item[0][0]), autojunk=False).ratio()

    return [name for _, name in sorted(_KNOWN.items(), key=likeness, reverse=True)[:3]]


def _brief(tokenizer: Mapping[str, Any]) -> str:
    text = json.dumps(tokenizer.get("pre_tokenizer"), ensure_ascii=False)
    return text if len(text) <= 300 else text[:297] + "..."
