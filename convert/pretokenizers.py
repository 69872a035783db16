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

from errors import ConversionError, UsageError

__all__ = [
    "DEEPSEEK_LETTERS",
    "PRE_TOKENIZERS",
    "check_pre_tokenizer_name",
    "pre_tokenizer_name",
]

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
DEEPSEEK_LETTERS = (
    r"\s?[A-Za-z"
    "\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-"
    "\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-"
    "\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-"
    "\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-"
    "\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4"
    "\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a"
    "-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-"
    "\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-"
    "\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-"
    "\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-"
    "\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
    "]+"
)
"""The letters of scripts that have capitals."""
_DEEPSEEK_LLM = (
    "[\r\n]",
    DEEPSEEK_LETTERS,
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
)
_DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+")

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
    ((*_split(*_DEEPSEEK_LLM)[:-1], "digits", *_BYTES), False): "deepseek-llm",
    ((*_split(*_DEEPSEEK_CODER)[:-1], "digits", *_BYTES), False): "deepseek-coder",
}
"""(steps, does a word that is a token skip the merges) -> llama.cpp's name."""

_NAMES = """
a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chameleon chatglm-bpe codeshell cohere2moe command-r dbrx
deepseek-coder deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone exaone-moe exaone4 f2llmv2 falcon
falcon-h1 falcon3 gemma4 gigachat glm4 glm5 gpt-2 gpt-4o gpt3-finnish granite-docling
granite-embed-multi-311m granite-embed-multi-97m grok-2 hunyuan hunyuan-dense hy_v4 jais jais-2 jina-de
jina-es jina-v1-en jina-v2-code jina-v2-de jina-v2-es jina-v5-nano joyai-llm kanana2 kimi-k2 kormo laguna
lfm2 llada-moe llama-bpe llama-v3 llama3 llama4 megrez mellum mellum2 midm-2.0 minerva-7b minicpm5
minimax-m2 modern-bert mpt olmo phi-2 pixtral poro-chat qwen2 qwen35 refact roberta-bpe sarvam-moe
seed-coder smaug-bpe smollm solar-open spark2_5 stablelm2 starcoder superbpe talkie tekken tiny_aya trillion
ufakzeka viking whitespace youtu
"""
PRE_TOKENIZERS = tuple(_NAMES.split())
"""Every name that llama.cpp takes for a byte-level vocabulary; any other, and it does not load the file."""


def check_pre_tokenizer_name(name: str) -> str:
    """Return `name` if llama.cpp has a pre-tokenizer called so. Raises `UsageError`."""
    if name in PRE_TOKENIZERS:
        return name
    near = difflib.get_close_matches(name, PRE_TOKENIZERS, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(
        f"llama.cpp has no pre-tokenizer {name!r}.", hint=f"{hint}It has: {', '.join(PRE_TOKENIZERS)}."
    )


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
        "transformers, copy tokenizer.json from the base model. If you know better, insist on one with "
        "`portside gguf --pre NAME`.",
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
