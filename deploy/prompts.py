"""The `prompt` rung: the prompt that the server really feeds the model, next to the one it was trained on.

Knows how each server can be made to tell: vLLM returns the prompt of a request, llama.cpp renders and
tokenizes on demand, Ollama renders with a debug option, LMDeploy tells token ids or how many there are,
llama-cpp-python how many there are.
Compares text, and token ids where the tokenizer is at hand, so that a second BOS cannot hide. Does not know
how training prompts come about: it asks the `TemplateSource`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploy.client import Client, Reply, ServerKind
from errors import TemplateError

if TYPE_CHECKING:
    from chat_templates import TemplateSource
    from checkpoint import Checkpoint

__all__ = ["CONVERSATIONS", "Comparison", "Fed", "compare_prompts", "describe_difference"]

Messages = Sequence[Mapping[str, str]]

CONVERSATIONS: dict[str, Messages] = {
    "one turn": ({"role": "user", "content": "What is the capital of France?"},),
    "system": (
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "What is the capital of France?"},
    ),
    "several turns": (
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello Ada!"},
        {"role": "user", "content": "What is my name?"},
    ),
    "white space": ({"role": "user", "content": "  Grüße,\n\n\t世界 👋 <b>&amp;</b>\n"},),
}
_BEFORE, _AFTER = 40, 40
"""Characters shown on either side of the first difference."""


@dataclass(frozen=True)
class Fed:
    """What the model gets to see, as far as the server tells."""

    text: str | None
    ids: tuple[int, ...] | None = None
    bos: str | None = None
    """The text of the server's BOS token, where it is known."""
    bos_hidden: bool = False
    """The server adds a BOS that it does not show."""
    count: int | None = None
    """Number of tokens, where the server tells no more."""


@dataclass(frozen=True)
class Comparison:
    """`ok` None: it could not be judged, and `detail` says why."""

    ok: bool | None
    detail: str
    hint: str | None = None


def compare_prompts(
    client: Client, kind: ServerKind, model: str, source: TemplateSource, checkpoint: Checkpoint | None
) -> Comparison:
    """Compare the server's prompts with the training prompts for all conversations."""
    reader = _READERS.get(kind)
    if reader is None:
        return Comparison(None, f"this server ({kind}) does not show the prompts it feeds")
    compared, skipped = [], []
    for case, messages in CONVERSATIONS.items():
        try:
            expected = source.render(messages)
        except TemplateError:
            skipped.append(case)  # the training template has no such conversations
            continue
        fed = reader(client, model, messages)
        if isinstance(fed, Reply):
            return Comparison(None, f"the server does not show its prompt: {fed.words()}")
        problem = _difference(case, expected, fed, source, checkpoint)
        if problem:
            hint = "The server uses another chat template. Serve with Portside, or give it the right one."
            return Comparison(False, problem, hint)
        compared.append(case)
    if not compared:
        return Comparison(None, f"the template {source.spec} refuses every conversation of the check")
    what = _compared(kind, checkpoint)
    if what is None:
        return Comparison(None, "this server shows tokens only; --checkpoint names what to compare with")
    left_out = f"; refused by the template: {', '.join(skipped)}" if skipped else ""
    return Comparison(True, f"equal to training in {what} ({', '.join(compared)}{left_out})")


def _compared(kind: ServerKind, checkpoint: Checkpoint | None) -> str | None:
    if kind == "lmdeploy":
        return None if checkpoint is None else "token ids of one turn, number of tokens of several"
    if kind == "llama-cpp-python":
        return None if checkpoint is None else "number of tokens, which is all this server tells"
    return "text" if checkpoint is None else "text and token ids"


def describe_difference(expected: str, actual: str) -> str:
    """Return three lines: both prompts around their first difference, and a mark below it."""
    from chat_templates.show import visible

    index = next((i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b), None)
    if index is None:
        index = min(len(expected), len(actual))
    start = max(0, index - _BEFORE)
    lead = ("…" if start else "") + visible(expected[start:index])
    rows = [
        f"    {label} {lead}{visible(text[index : index + _AFTER]) or '∎'}"
        for label, text in (("training:", expected), ("server:  ", actual))
    ]
    return "\n".join((*rows, " " * (len("    training: ") + len(lead)) + "^"))


def _difference(
    case: str, expected: str, fed: Fed, source: TemplateSource, checkpoint: Checkpoint | None
) -> str | None:
    text = fed.text
    if text is not None:
        if checkpoint is None and source.bos_token is None and fed.bos:
            # nobody told what the BOS is called: the rest of the prompt is compared
            text, expected = text.removeprefix(fed.bos), expected.removeprefix(fed.bos)
        if fed.bos_hidden and source.bos_token:
            text, expected = text.removeprefix(source.bos_token), expected.removeprefix(source.bos_token)
        if text != expected:
            return f"the prompts differ ({case}):\n{describe_difference(expected, text)}"
    if checkpoint is None or (fed.ids is None and fed.count is None):
        return None
    wanted = checkpoint.tokenizer.encode(expected, add_special_tokens=False)
    if fed.ids is None:
        same = len(wanted) == fed.count
        return None if same else f"{len(wanted)} tokens in training, {fed.count} in the server ({case})"
    if tuple(wanted) == fed.ids:
        return None
    if text is None:
        decoded = checkpoint.tokenizer.decode(list(fed.ids))
        return f"the prompts differ ({case}):\n{describe_difference(expected, decoded)}"
    index = next((i for i, (a, b) in enumerate(zip(wanted, fed.ids, strict=False)) if a != b), 0)
    return (
        f"the prompts are the same text ({case}) but other tokens: {len(wanted)} in training, "
        f"{len(fed.ids)} in the server, the first difference at token {index} "
        f"({wanted[index : index + 4]} in training, {list(fed.ids[index : index + 4])} in the server)"
    )


def _read_vllm(client: Client, model: str, messages: Messages) -> Fed | Reply:
    """vLLM >= 0.12 or so returns the prompt with the answer; older ones tokenize on demand."""
    body = {"model": model, "messages": list(messages), "max_tokens": 1}
    reply = client.post(
        "/v1/chat/completions", {**body, "return_prompt_text": True, "return_token_ids": True}, timeout=120
    )
    found = reply.json if reply.ok else None
    if not isinstance(found, dict):
        return reply
    if isinstance(found.get("prompt_text"), str):
        return Fed(found["prompt_text"], _ids(found.get("prompt_token_ids")))
    reply = client.post("/tokenize", {"model": model, "messages": list(messages)}, timeout=60)
    ids = _ids(reply.json.get("tokens")) if reply.ok and isinstance(reply.json, dict) else None
    if ids is None:
        return reply
    text = client.post("/detokenize", {"model": model, "tokens": list(ids)}, timeout=60).json
    return Fed(text.get("prompt") if isinstance(text, dict) else None, ids)


def _read_llama_cpp(client: Client, model: str, messages: Messages) -> Fed | Reply:
    """llama.cpp renders without the BOS that its tokenizer adds: the token ids tell whether it does."""
    reply = client.post("/apply-template", {"model": model, "messages": list(messages)}, timeout=60)
    found = reply.json if reply.ok else None
    if not isinstance(found, dict) or not isinstance(found.get("prompt"), str):
        return reply
    text: str = found["prompt"]
    props = client.get("/props").json
    bos = props.get("bos_token") if isinstance(props, dict) else None
    with_bos = _tokenized(client, text, add_special=True)
    plain = _tokenized(client, text, add_special=False)
    if with_bos is None or plain is None:
        return Fed(text, bos=bos)
    if len(with_bos) > len(plain) and bos:
        text = bos + text
    return Fed(text, with_bos, bos)


def _tokenized(client: Client, text: str, *, add_special: bool) -> tuple[int, ...] | None:
    body = {"content": text, "add_special": add_special, "parse_special": True}
    found = client.post("/tokenize", body, timeout=60).json
    return _ids(found.get("tokens")) if isinstance(found, dict) else None


def _read_ollama(client: Client, model: str, messages: Messages) -> Fed | Reply:
    """Ollama renders without generating, and without the BOS that its runner adds."""
    body = {"model": model, "messages": list(messages), "stream": False, "_debug_render_only": True}
    reply = client.post("/api/chat", body, timeout=120)
    found = reply.json if reply.ok else None
    info = found.get("_debug_info") if isinstance(found, dict) else None
    text = info.get("rendered_template") if isinstance(info, dict) else None
    return Fed(text, bos_hidden=True) if isinstance(text, str) else reply


def _read_lmdeploy(client: Client, model: str, messages: Messages) -> Fed | Reply:
    """LMDeploy encodes one user turn on demand; of several it tells the number of tokens only."""
    if [message["role"] for message in messages] == ["user"]:
        body = {"input": messages[0]["content"], "do_preprocess": True}
        reply = client.post("/v1/encode", body, timeout=60)
        found = reply.json if reply.ok else None
        ids = _ids(found.get("input_ids")) if isinstance(found, dict) else None
        return reply if ids is None else Fed(None, ids)
    return _count_tokens(client, model, messages)


def _count_tokens(client: Client, model: str, messages: Messages) -> Fed | Reply:
    """Every OpenAI-compatible server tells in an answer's usage how many tokens the prompt had."""
    body = {"model": model, "messages": list(messages), "max_tokens": 1}
    reply = client.post("/v1/chat/completions", body, timeout=120)
    found = reply.json if reply.ok else None
    usage = found.get("usage") if isinstance(found, dict) else None
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return Fed(None, count=count) if isinstance(count, int) else reply


def _ids(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    ids = [item.get("id") if isinstance(item, dict) else item for item in value]
    return tuple(item for item in ids if isinstance(item, int))


_READERS: dict[ServerKind, Callable[[Client, str, Messages], Fed | Reply]] = {
    "vllm": _read_vllm,
    "llama.cpp": _read_llama_cpp,
    "llama-cpp-python": _count_tokens,
    "ollama": _read_ollama,
    "lmdeploy": _read_lmdeploy,
}
