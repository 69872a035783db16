"""Whether a tokenizer.json is a byte-level BPE that llama.cpp can run: GGUF's tokenizer model "gpt2"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from checkpoint import Finding, Tokenizer
from errors import ConversionError

__all__ = ["check_byte_level"]


def check_byte_level(tokenizer: Tokenizer) -> tuple[Finding, ...]:
    """Refuse what llama.cpp's byte-level BPE cannot do."""
    model = tokenizer.raw.get("model")
    kind = model.get("type") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or kind != "BPE":
        raise ConversionError(
            f"{tokenizer.path} holds a tokenizer of the kind {kind!r}; byte-level BPE and SentencePiece BPE "
            "can be converted.",
            hint="Serve the model with vLLM, which takes any tokenizer.",
        )
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ConversionError(
                f"{tokenizer.path} uses {name} {model[name]!r}, which llama.cpp does not know.",
                hint="Serve the model with vLLM, which takes any tokenizer.",
            )
    if not tokenizer.merges:
        raise ConversionError(
            f"{tokenizer.path} has no merges.", hint="Copy tokenizer.json from the base model."
        )
    return _check_normalizer(tokenizer)


def _check_normalizer(tokenizer: Tokenizer) -> tuple[Finding, ...]:
    kinds = _normalizers(tokenizer.raw.get("normalizer"))
    foreign = [kind for kind in kinds if kind != "NFC"]
    if foreign:
        raise ConversionError(
            f"{tokenizer.path} normalizes text with {', '.join(foreign)}, which llama.cpp does not do.",
            hint="Serve the model with vLLM, which takes any tokenizer.",
        )
    if not kinds:
        return ()
    return (
        Finding(
            "normalizer-ignored",
            "info",
            "The tokenizer brings text into Unicode's NFC form; llama.cpp takes text as it comes. Only text "
            "with decomposed letters is affected.",
        ),
    )


def _normalizers(node: Any) -> list[str]:
    if not isinstance(node, Mapping):
        return []
    inner = node.get("normalizers")
    if node.get("type") == "Sequence" and isinstance(inner, list):
        return [kind for part in inner for kind in _normalizers(part)]
    return [str(node.get("type"))]
