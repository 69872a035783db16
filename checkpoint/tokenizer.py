"""The tokenizer as it is stored: `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`; or
`tokenizer.model`, brought into the form of a tokenizer.json.

Knows: every token by id, the named special tokens, and how text becomes ids (through the `tokenizers`
library, from tokenizer.json itself: transformers 5 replaces the pre-tokenizer of some families). Does not
know chat templates.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoint.findings import CheckpointFlaw
from checkpoint.jsonfile import MEGABYTE, parse_object, read_bytes, read_object
from checkpoint.piece_encoding import piece_encoder
from checkpoint.pieces import pieces_as_json
from checkpoint.ranked_bytes import is_ranked, ranked_as_json
from checkpoint.sentencepiece import PieceKind, PieceModel, pieces_in
from checkpoint.vocabulary import AddedToken, added_tokens, base_vocabulary, by_id, merge_pairs
from errors import BadInput

if TYPE_CHECKING:
    import tokenizers

__all__ = ["AddedToken", "Tokenizer"]

_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


class Tokenizer:
    """One checkpoint's tokenizer. The files are checked at once; the library is loaded on first use."""

    def __init__(
        self,
        path: Path,
        raw: Mapping[str, Any],
        config: Mapping[str, Any],
        special: Mapping[str, Any] | None = None,
        model: PieceModel | None = None,
    ) -> None:
        self.path = path
        """tokenizer.json or tokenizer.model, for messages."""
        self._model = model
        self.raw = raw
        self.config = config
        self.vocab: Mapping[str, int] = base_vocabulary(raw, path)
        """The model's own tokens; tokens that were only added are in `added`."""
        self.added: tuple[AddedToken, ...] = added_tokens(raw, config, self.vocab, path)
        self.tokens: tuple[str | None, ...] = by_id(self.vocab, self.added, path)
        """Text by id, added tokens included; None where an id was never given out."""
        self._ids = {**self.vocab, **{token.content: token.id for token in self.added}}
        self._names = {name: _named(name, config, special or {}, path) for name in _NAMED}

    @classmethod
    def open(cls, directory: Path) -> Tokenizer:
        """Read the tokenizer of the checkpoint `directory`; raises `CheckpointFlaw`."""
        path = directory / "tokenizer.json"
        config = read_object(directory / "tokenizer_config.json") or {}
        special = read_object(directory / "special_tokens_map.json") or {}
        content = read_bytes(path, 256 * MEGABYTE)
        if content is not None:
            return cls(path, parse_object(content, path), config, special)
        path = directory / "tokenizer.model"
        content = read_bytes(path, 256 * MEGABYTE)
        if content is None:
            raise _missing(directory)
        if is_ranked(content):
            return cls(path, ranked_as_json(content, config, path), config, special)
        model = pieces_in(content, path)
        raw = pieces_as_json(model, config, special, directory)
        return cls(path, raw, config, special, model)

    @property
    def is_built(self) -> bool:
        """Whether there is no tokenizer.json, so that `raw` follows from tokenizer.model."""
        return self.path.name == "tokenizer.model"

    @property
    def bos_token(self) -> str | None:
        return self._names["bos_token"]

    @property
    def eos_token(self) -> str | None:
        return self._names["eos_token"]

    @property
    def pad_token(self) -> str | None:
        return self._names["pad_token"]

    @property
    def unk_token(self) -> str | None:
        return self._names["unk_token"]

    @property
    def bos_id(self) -> int | None:
        return self._ids.get(self.bos_token or "")

    @property
    def eos_id(self) -> int | None:
        return self._ids.get(self.eos_token or "")

    @property
    def pad_id(self) -> int | None:
        return self._ids.get(self.pad_token or "")

    @property
    def unk_id(self) -> int | None:
        return self._ids.get(self.unk_token or "")

    @property
    def pre_tokenizer(self) -> Any:
        """The `pre_tokenizer` of tokenizer.json as it stands there, or None."""
        return self.raw.get("pre_tokenizer")

    @cached_property
    def merges(self) -> tuple[tuple[str, str], ...]:
        """BPE merges as pairs, best first (both spellings of tokenizer.json are read); else empty."""
        return merge_pairs(self.raw, self.path)

    @cached_property
    def adds_bos(self) -> bool:
        """Whether encoding with special tokens puts BOS in front.

        transformers rebuilds the post-processor when tokenizer_config.json has add_bos_token or
        add_eos_token; otherwise the post-processor of tokenizer.json decides.
        """
        if self.bos_id is None:
            return False
        if "add_bos_token" in self.config or "add_eos_token" in self.config:
            return bool(self.config.get("add_bos_token"))
        return _leading_special(self.raw.get("post_processor")) == self.bos_token

    def id_of(self, text: str) -> int | None:
        """Return the id of `text` when encoding it gives exactly one token, else None.

        A user-defined piece of SentencePiece counts, though a space may be put before it.
        """
        for token in self.added:
            if token.content == text:
                return token.id
        if self._model is not None and text in self.vocab:
            number = self.vocab[text]
            pieces = self._model.pieces
            if number < len(pieces) and pieces[number].kind is PieceKind.USER_DEFINED:
                return number
        ids = self.encode(text) if text else []
        return ids[0] if len(ids) == 1 else None

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of `text`; with `add_special_tokens` BOS and EOS are added as transformers would.

        Raises `BadInput` for text that is not Unicode (half a surrogate pair).
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadInput(f"The text cannot be encoded: {error.reason}.") from error
        rebuilt = "add_bos_token" in self.config or "add_eos_token" in self.config
        ids = self._plain(text, add_special_tokens=add_special_tokens and not rebuilt)
        if not (add_special_tokens and rebuilt):
            return ids
        last = self.eos_id if self.config.get("add_eos_token") else None
        return [*self._one(self.bos_id if self.adds_bos else None), *ids, *self._one(last)]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of `ids`; ids that do not exist give nothing."""
        known = [token for token in ids if 0 <= token < len(self.tokens)]
        backend = self._backend
        with _library(self.path):
            return backend.decode(known, skip_special_tokens=skip_special_tokens)

    def _plain(self, text: str, *, add_special_tokens: bool) -> list[int]:
        backend, cut = self._backend, self._cut
        with _library(self.path):
            if cut is None:
                ids: list[int] = backend.encode(text, add_special_tokens=add_special_tokens).ids
                return ids
            first = backend.encode("", add_special_tokens=True).ids if add_special_tokens else []
            return [*first, *cut(text)]

    @cached_property
    def _cut(self) -> Callable[[str], list[int]] | None:
        if self._model is None:
            return None
        with _library(self.path):
            return piece_encoder(self._model, self.raw, {token.content: token.id for token in self.added})

    @staticmethod
    def _one(token: int | None) -> tuple[int, ...]:
        return () if token is None else (token,)

    @cached_property
    def _backend(self) -> tokenizers.Tokenizer:
        import tokenizers

        raw = {**self.raw, "added_tokens": [token.as_json() for token in self.added]}
        raw["truncation"] = raw["padding"] = None  # settings of a training run, not of the tokenizer
        with _library(self.path):
            return tokenizers.Tokenizer.from_str(json.dumps(raw))


@contextlib.contextmanager
def _library(path: Path) -> Iterator[None]:
    """Turn whatever the tokenizers library raises, Rust panics included, into a `CheckpointFlaw`."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointFlaw(
            "tokenizer-damaged",
            f"{path} cannot be used by the tokenizers library: {str(error)[:300]}.",
            hint="Copy tokenizer.json from the base model, or save the tokenizer again.",
        ) from error


def _missing(directory: Path) -> CheckpointFlaw:
    slow = (directory / "vocab.json").exists()
    hint = (
        "Write one: `AutoTokenizer.from_pretrained(DIR, use_fast=True).save_pretrained(DIR)`."
        if slow
        else "Copy tokenizer.json and tokenizer_config.json from the base model: not every merge saves them."
    )
    older = ", only the older tokenizer files" if slow else ""
    return CheckpointFlaw(
        "tokenizer-missing", f"{directory} has neither tokenizer.json nor tokenizer.model{older}.", hint=hint
    )


def _named(name: str, config: Mapping[str, Any], special: Mapping[str, Any], path: Path) -> str | None:
    value = config[name] if name in config else special.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        where = path.with_name("tokenizer_config.json")
        raise CheckpointFlaw(
            "tokenizer-damaged", f"{where} has a {name} that is not text: {str(value)[:60]}."
        )
    return value or None


def _leading_special(processor: object) -> str | None:
    """Return the token that a post-processor of tokenizer.json puts in front of a single text."""
    if not isinstance(processor, dict):
        return None
    if processor.get("type") == "Sequence":
        steps = processor.get("processors")
        found = (_leading_special(step) for step in steps) if isinstance(steps, list) else iter(())
        return next((token for token in found if token is not None), None)
    if processor.get("type") in {"BertProcessing", "RobertaProcessing"}:
        cls = processor.get("cls")
        return cls[0] if isinstance(cls, list) and cls and isinstance(cls[0], str) else None
    single = processor.get("single")
    head = single[0] if isinstance(single, list) and single else None
    inner = head.get("SpecialToken") if isinstance(head, dict) else None
    token = inner.get("id") if isinstance(inner, dict) else None
    return token if isinstance(token, str) else None
