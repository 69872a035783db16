"""The tokens of a checkpoint whose vocabulary is a SentencePiece model, as the stock converter writes them.

Text, type and score by id come from tokenizer.model, then from added_tokens.json, then from
added_tokens_decoder of tokenizer_config.json, the later word counting. Families with rules of their own:
InternLM 2 (unused pieces, a NUL) and ChatGLM 3 (the first three pieces, the tokens after the last).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from checkpoint import AddedToken, Checkpoint, Finding, PieceKind, PieceModel, Tokenizer
from checkpoint.pieces import stored_additions
from convert.sentencepiece import ADDED_SCORE, stored_model

__all__ = ["PieceTokens", "is_chatglm", "looks_special", "piece_findings", "piece_tokens", "vocabulary_model"]

_PADDING_SCORE = -10000.0
_INTERNLM2 = "InternLM2ForCausalLM"
_CHATGLM_FIRST = ("<unk>", "<bos>", "<eos>")


@dataclass
class PieceTokens:
    """Text, type and score by id, while they are collected."""

    texts: list[str] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def put(self, number: int, text: str, kind: PieceKind, score: float) -> None:
        if 0 <= number < len(self.texts):
            self.texts[number], self.types[number], self.scores[number] = text, int(kind), score


def vocabulary_model(checkpoint: Checkpoint) -> PieceModel | None:
    """Return tokenizer.model where it says what the vocabulary is: alone, or in agreement with
    tokenizer.json. Raises `ConversionError` for a damaged one."""
    tokenizer = checkpoint.tokenizer
    model = stored_model(checkpoint.tokenizer_path)
    if model is None or tokenizer.is_built:
        return model
    added = {token.id for token in tokenizer.added}
    own = {number: text for number, text in enumerate(tokenizer.tokens) if number not in added}
    pieces = model.pieces
    agrees = all(number < len(pieces) and pieces[number].text == text for number, text in own.items())
    return model if agrees and len(pieces) <= len(tokenizer.tokens) else None


def piece_tokens(checkpoint: Checkpoint, model: PieceModel, size: int, *, repair: bool) -> PieceTokens:
    """Return the tokens of the ids below `size`; ids that were never given out are UNUSED.

    With `repair` the model's user-defined pieces are such in the file too, so that llama.cpp takes them
    whole; the stock converter writes them as pieces to be merged.
    """
    chatglm = is_chatglm(checkpoint.tokenizer)
    tokens = PieceTokens(
        [f"[PAD{number}]" for number in range(size)],
        [int(PieceKind.UNUSED)] * size,
        [0.0 if chatglm else _PADDING_SCORE] * size,
    )
    internlm2 = checkpoint.config.architecture == _INTERNLM2
    for number, piece in enumerate(model.pieces):
        text, kind = piece.text, piece.kind
        if kind is PieceKind.USER_DEFINED:
            kind, text = (kind, text.replace("▁", " ")) if repair else (PieceKind.NORMAL, text)
        if internlm2:
            # llama.cpp would read a NUL as the end of an empty text.
            text = "🐉" if text == "\0" else text
            kind = PieceKind.UNUSED if text.startswith("[UNUSED") else kind
        if chatglm and number < len(_CHATGLM_FIRST):
            text = _CHATGLM_FIRST[number]
        tokens.put(number, text, kind, piece.score)
    for added, stored in _added(checkpoint, model):
        plain = stored or internlm2
        special = added.special if plain else added.special or looks_special(added.content)
        kind = PieceKind.CONTROL if special else PieceKind.USER_DEFINED
        text = added.content if special or plain else added.content.replace("▁", " ")
        tokens.put(added.id, text, kind, 0.0 if chatglm else ADDED_SCORE)
    return tokens


def _added(checkpoint: Checkpoint, model: PieceModel) -> Iterator[tuple[AddedToken, bool]]:
    """Yield the tokens beyond the model's, and whether only added_tokens.json lists them."""
    tokenizer = checkpoint.tokenizer
    stored = stored_additions(checkpoint.tokenizer_path)
    listed = tokenizer.config.get("added_tokens_decoder")
    decoded = set(listed) if isinstance(listed, dict) else set()
    for text, number in stored.items():
        yield AddedToken(number, text, special=False), True
    # Of InternLM 2 the stock converter reads the added tokens of tokenizer.json as well.
    every = checkpoint.config.architecture == _INTERNLM2 and not tokenizer.is_built
    for token in tokenizer.added:
        beyond = token.id >= len(model.pieces) and token.content not in stored
        if every or beyond or str(token.id) in decoded:
            yield token, False


def is_chatglm(tokenizer: Tokenizer) -> bool:
    """Whether the vocabulary is ChatGLM 2's or 3's."""
    return tokenizer.is_built and tokenizer.config.get("tokenizer_class") == "ChatGLMTokenizer"


def looks_special(text: str) -> bool:
    """Whether an added token is a mark even where it is not declared special (the stock converter's rule)."""
    if text in {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}:
        return True
    marks = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    return any(text.startswith(start) and text.endswith(end) for start, end in marks)


def piece_findings(model: PieceModel) -> tuple[Finding, ...]:
    """Return what llama.cpp does otherwise than SentencePiece before it splits a text."""
    return (*_whole_pieces(model), *_normalizer(model))


def _whole_pieces(model: PieceModel) -> tuple[Finding, ...]:
    user = [piece.text for piece in model.pieces if piece.kind is PieceKind.USER_DEFINED]
    if not user or not model.add_dummy_prefix:
        return ()
    return (
        Finding(
            "user-defined-pieces",
            "warning",
            f"tokenizer.model has {len(user)} user-defined pieces ({', '.join(map(repr, user[:3]))}…); after "
            "each of them llama.cpp puts a space before the text that follows, SentencePiece does not.",
            "Where chats contain them serve the model with vLLM.",
        ),
    )


def _normalizer(model: PieceModel) -> tuple[Finding, ...]:
    if not model.charsmap and not model.remove_extra_whitespaces:
        return ()
    what = "brings text into another form" if model.charsmap else "removes repeated spaces"
    return (
        Finding(
            "normalizer-ignored",
            "warning",
            f"The tokenizer {what} before it splits it; llama.cpp takes text as it comes. Text with unusual "
            "characters or repeated spaces is split otherwise than in training.",
            "Where that matters serve the model with vLLM.",
        ),
    )
