"""Checks of token ids: which ids end a generation, and whether vocabulary and embedding fit each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from checkpoint.findings import Finding
from checkpoint.model import Checkpoint
from checkpoint.stored_tensors import embedding_of
from checkpoint.tokenizer import Tokenizer

__all__ = ["check_ids", "check_vocabulary"]


def check_ids(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Yield disagreements between the end-of-sequence ids of tokenizer, generation_config and config.

    Engines stop on the tokenizer's id and generation_config.json's (config.json's without that file). Whether
    any of them ends a turn is for the chat template to say, not for this room.
    """
    tokenizer = checkpoint.tokenizer
    generation, config = checkpoint.generation.eos_token_ids, checkpoint.config.eos_token_ids
    if tokenizer.eos_token is not None and tokenizer.eos_id is None:
        yield Finding(
            "eos-not-a-token",
            "warning",
            f"tokenizer_config.json names {tokenizer.eos_token!r} as eos_token, which tokenizer.json lacks: "
            "transformers would add it under a new id that the model has never seen.",
            "Set eos_token to a token of the vocabulary.",
        )
    effective = generation or config
    if tokenizer.eos_id is None and not effective:
        yield Finding(
            "eos-missing",
            "warning",
            "Neither the tokenizer nor generation_config.json nor config.json names an end of sequence.",
            "Set eos_token in tokenizer_config.json and eos_token_id in generation_config.json.",
        )
    if _disagree(tokenizer.eos_id, generation, config):
        own = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        yield Finding(
            "eos-disagree",
            "warning",
            f"The end of sequence is not the same everywhere: the tokenizer says {_show(own, tokenizer)}, "
            f"generation_config.json {_show(generation, tokenizer)}, config.json {_show(config, tokenizer)}.",
            "Put every id that ends a turn into eos_token_id of generation_config.json; Portside does so in "
            "the view that it serves.",
        )
    yield from _unknown_ids(checkpoint, [*generation, *config])


def check_vocabulary(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Yield what is odd about the vocabulary: more rows in the embedding than tokens (padding), or fewer."""
    if isinstance(checkpoint.tokenizer.config.get("extra_special_tokens"), list):
        yield Finding(
            "extra-special-tokens-list",
            "info",
            "tokenizer_config.json has extra_special_tokens as a list, as transformers 5 writes it: "
            "transformers 4, and engines built on it, cannot load this tokenizer.",
            "For those, rename the key to additional_special_tokens.",
        )
    tokens = len(checkpoint.tokenizer.tokens)
    embedding = embedding_of(checkpoint)
    if embedding is None:
        return
    rows = embedding.shape[0]
    if rows < tokens:
        yield Finding(
            "vocab-size-mismatch",
            "error",
            f"The tokenizer has {tokens:,} tokens but {embedding.name} only {rows:,} rows: "
            f"ids from {rows:,} on cannot be looked up.",
            "Tokens were added without resizing the embedding, or the tokenizer is another model's: save the "
            "tokenizer of the model that was trained, or call resize_token_embeddings and save again.",
        )
    elif rows > tokens:
        yield Finding(
            "vocab-size-mismatch",
            "info",
            f"{embedding.name} has {rows:,} rows for {tokens:,} tokens: {rows - tokens:,} rows are padding.",
            "Nothing to do: the conversion names the padding.",
        )


def _disagree(tokenizer: int | None, generation: Sequence[int], config: Sequence[int]) -> bool:
    # It is harmless when config.json has fewer ids, or the base model's, and generation_config.json has all.
    effective = generation or config
    if tokenizer is not None and effective and tokenizer not in effective:
        return True
    return bool(generation) and bool(config) and not set(generation) & set(config)


def _unknown_ids(checkpoint: Checkpoint, ids: Sequence[int]) -> Iterator[Finding]:
    tokens = checkpoint.tokenizer.tokens
    unknown = [token for token in dict.fromkeys(ids) if token >= len(tokens) or tokens[token] is None]
    if unknown:
        yield Finding(
            "eos-not-a-token",
            "warning",
            f"generation_config.json or config.json names the end-of-sequence id {unknown[0]}, "
            f"which is no token of the tokenizer ({len(tokens):,} tokens).",
            "Take the ids from the tokenizer that belongs to this model.",
        )


def _show(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    if not ids:
        return "nothing"
    texts = [tokenizer.tokens[token] if token < len(tokenizer.tokens) else None for token in ids[:5]]
    return ", ".join(f"{token} ({text!r})" for token, text in zip(ids, texts, strict=False))
