"""How a GGUF file says where generation ends.

llama.cpp ends generation on the tokens under tokenizer.ggml.eos_token_id, eot_token_id and eom_token_id, and
on every token whose text is in a list of its own (the facts of src/llama-vocab.cpp). Three slots and that
list must cover all the ids that a model may stop with; what they cannot cover is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from checkpoint import Finding

__all__ = ["llamacpp_stops_on", "stop_slots"]

_STOP_TEXTS = frozenset(
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
    ]
)


def llamacpp_stops_on(text: str, vocabulary: frozenset[str]) -> bool:
    """Whether llama.cpp ends generation on the token `text` by its text alone."""
    if text == "<|end|>" and vocabulary >= {"<|call|>", "<|return|>"}:
        return False
    if text == "<|end|>" and vocabulary >= {"<|calls|>", "<|flush|>"}:
        return False
    if text == "</s>" and vocabulary & {"<|tool_response>", "<|plamo:eos|>"}:
        return False
    return text in _STOP_TEXTS


def stop_slots(
    ids: Sequence[int], eos: int | None, tokens: Sequence[str]
) -> tuple[Mapping[str, int], tuple[Finding, ...]]:
    """Return {"eos": id, "eot": id, "eom": id} (as many as needed) so that llama.cpp stops on all of `ids`.

    `ids` has the template's turn end first. `eos`, the tokenizer's own, stays in its slot: llama.cpp hands
    that token's text to the chat template as `eos_token`. The remaining slots go to the turn end and to the
    ids that llama.cpp does not know by text. A warning names the ids that do not fit.
    """
    wanted = [one for one in dict.fromkeys(ids) if 0 <= one < len(tokens)]
    if eos is None and wanted:
        eos = wanted[0]
    slots = {} if eos is None else {"eos": eos}
    vocabulary = frozenset(tokens)
    others = [one for one in wanted if one != eos]
    known = [one for one in others if llamacpp_stops_on(tokens[one], vocabulary)]
    unknown = [one for one in others if one not in known]
    chosen = sorted((unknown + known)[:2], key=lambda one: one != wanted[0])
    slots |= dict(zip(("eot", "eom"), chosen, strict=False))
    left = unknown[2:]
    if not left:
        return slots, ()
    named = ", ".join(f"{tokens[one]!r} ({one})" for one in left)
    return slots, (
        Finding(
            "stop-ids-exceed-gguf",
            "warning",
            f"A GGUF file names at most three stop tokens; llama.cpp will not stop on {named} by itself.",
            "Pass these texts as `stop` in requests, or serve the model with vLLM, which takes any number.",
        ),
    )
