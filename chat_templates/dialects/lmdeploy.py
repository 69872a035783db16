"""The LMDeploy dialect: a chat-template JSON, and the prompt LMDeploy makes of it.

Knows the fields of `ChatTemplateConfig` and the rules of `messages2prompt` (LMDeploy 0.18.0). Does not
know the hf template class, which runs the checkpoint's own Jinja.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from chat_templates.dialects.base import DialectFacts, DialectRefused
from chat_templates.template import ChatTemplate, Message
from errors import TemplateError
from files import dump_json

if TYPE_CHECKING:
    from chat_templates.sources.source import TemplateSource
    from chat_templates.stops import Stops

__all__ = ["WAY_OUT", "LmdeployDialect", "limits"]

WAY_OUT = (
    "Start LMDeploy with `--chat-template hf` on the served view: it runs the chat_template.jinja there, "
    "which says everything."
)
_TEXTS = (
    "system",
    "meta_instruction",
    "eosys",
    "user",
    "eoh",
    "assistant",
    "eoa",
    "separator",
    "tool",
    "eotool",
)
_KNOWN = frozenset((*_TEXTS, "model_name", "model_path", "capability", "stop_words"))


class LmdeployDialect:
    """LMDeploy's chat-template JSON, for `--chat-template FILE`."""

    name = "lmdeploy"
    reads: Literal["checkpoint", "gguf"] = "checkpoint"
    filename = "lmdeploy.json"

    def write(self, source: TemplateSource, stops: Stops | None, facts: DialectFacts) -> str:
        """Return the JSON for `source`. Raises `DialectRefused` when plain chats cannot be exact."""
        form = source.form
        if form is None:
            reason = source.form_refusal or "no reason was found"
            raise DialectRefused(
                f"The chat template cannot be taken apart into the texts around its messages: {reason}.",
                hint=WAY_OUT,
            )
        refusal = limits(form, facts).get("chat")
        if refusal:
            raise DialectRefused(f"{refusal[0].upper()}{refusal[1:]}.", hint=WAY_OUT)
        fields: dict[str, Any] = {key: text for key, text in _fields(form, facts).items() if text}
        fields["capability"] = "chat"
        words = stops.strings if stops else form.stop
        fields["stop_words"] = [word for word in words if not stops or word not in stops.multi_token]
        digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:8]
        # A name LMDeploy knows already would bring that class's overrides along.
        return dump_json({"model_name": f"portside-{facts.name}-{digest}", **fields})

    def render(
        self,
        text: str,
        messages: Sequence[Message],
        facts: DialectFacts,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
        thinking: bool | None = None,
    ) -> str:
        """Return the prompt LMDeploy feeds: BOS, if its tokenizer adds it, and the boxes of the messages.

        LMDeploy always continues a last message of the assistant and answers anything else. Raises
        `DialectRefused` for other wishes and for tools, which its JSON templates ignore. They ignore
        `thinking` too, without a word.
        """
        answers = not messages or messages[-1]["role"] != "assistant"
        if continue_final_message and answers:
            raise DialectRefused("LMDeploy continues the last message only when it is the assistant's.")
        if not add_generation_prompt and not continue_final_message:
            raise DialectRefused("LMDeploy always asks for an answer: it has no prompt without one.")
        if tools:
            raise DialectRefused("an LMDeploy JSON template has no place for tools", hint=WAY_OUT)
        bos = (facts.bos_token or "") if facts.adds_bos else ""
        return bos + _messages_to_prompt(_load(text), messages)


def limits(form: ChatTemplate, facts: DialectFacts | None = None) -> dict[str, str]:
    """Return why LMDeploy's JSON cannot be exact, by class of conversation; `chat` means not at all."""
    found = {"tools": "an LMDeploy JSON template has no place for tool definitions and calls"}
    if form.trimmed:
        found["unicode"] = "LMDeploy does not strip white space from contents, this template does"
    if form.thinking and form.thinking.strip_history:
        found["thinking"] = (
            f"LMDeploy does not take {form.thinking.close} and what is before it out of history"
        )
    elif form.thinking and form.thinking.switched:
        found["thinking"] = "an LMDeploy JSON template has no switch for thinking"
    if form.system_placement == "first_user":
        found["repeated"] = "the text before a user message can only be written behind an assistant's answer"
    if form.dated:
        found["chat"] = "today's date is part of the prompt, an LMDeploy JSON holds fixed texts only"
    elif form.counted:
        found["chat"] = "the questions are numbered, an LMDeploy JSON has one text for all"
    elif form.last_question:
        found["chat"] = "the last question is written otherwise than those before it"
    elif form.system_placement == "last_user":
        found["chat"] = "the system message stands in the last user's turn, LMDeploy writes it in front"
    elif form.dropped:
        found["chat"] = f"this template drops the text of {_roles(form.dropped)} messages, LMDeploy writes it"
    elif form.generation_prompt != form.assistant.prefix:
        found["chat"] = "past answers and the new one begin with different texts, LMDeploy has one for both"
    elif _default_system(form) is None:
        found["chat"] = (
            "LMDeploy JSON cannot leave out the system block when no system message is given, "
            "it would write an empty one"
        )
    elif facts and (extra := facts.extra_bos(form)):
        found["chat"] = extra
    return found


# writing


def _roles(roles: Iterable[str]) -> str:
    return " and ".join(sorted(roles))


def _default_system(form: ChatTemplate) -> str | None:
    """Return the meta_instruction that makes LMDeploy's block, written when no system message is given,
    what the form writes then; None when there is no such text."""
    if form.system is None:
        return ""
    if form.default_system is not None:
        return form.default_system
    prefix, suffix, text = form.system.prefix, form.system.suffix, form.no_system
    fits = text.startswith(prefix) and text.endswith(suffix) and len(text) >= len(prefix) + len(suffix)
    return text[len(prefix) : len(text) - len(suffix)] if fits else None


def _fields(form: ChatTemplate, facts: DialectFacts) -> dict[str, str]:
    head = form.bos
    if facts.adds_bos and facts.bos_token:
        head = head.removeprefix(facts.bos_token)
    user, separator = form.user.prefix, form.separator
    if form.system_placement == "first_user":
        # The system text stands behind the first user prefix, so that prefix moves in front of the block
        # and, for later turns, behind the separator that ends every answer.
        head, user, separator = head + user, "", separator + user
    system = form.no_system if form.system is None else form.system.prefix
    return {
        "system": head + system,  # a block that every conversation begins with, so the head can be in it
        "meta_instruction": _default_system(form) or "",
        "eosys": form.system.suffix if form.system else "",
        "user": user,
        "eoh": form.user.suffix,
        "assistant": form.assistant.prefix,
        "eoa": form.assistant.suffix,
        "separator": separator,
        "tool": form.tool.prefix if form.tool else "",
        "eotool": form.tool.suffix if form.tool else "",
    }


# rendering


def _load(text: str) -> dict[str, str]:
    """Return the texts of a chat-template JSON, '' where LMDeploy would take its default."""
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise TemplateError(f"The LMDeploy chat template is not JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise TemplateError("The LMDeploy chat template is not a JSON object.")
    unknown = sorted(set(fields) - _KNOWN)
    if unknown:
        raise TemplateError(f"The LMDeploy chat template has unknown fields: {', '.join(unknown)}.")
    wrong = [key for key in _TEXTS if not isinstance(fields.get(key), str | None)]
    if wrong:
        raise TemplateError(f"The LMDeploy chat template's {wrong[0]} is not a text.")
    return {key: fields.get(key) or "" for key in _TEXTS}


def _messages_to_prompt(fields: Mapping[str, str], messages: Sequence[Message]) -> str:
    answer_end = fields["eoa"] + fields["separator"]
    boxes = {
        "system": (fields["system"], fields["eosys"]),
        "user": (fields["user"], fields["eoh"]),
        "assistant": (fields["assistant"], answer_end),
        "tool": (fields["tool"], fields["eotool"]),
    }
    out = []
    if messages and messages[0]["role"] != "system":
        out.append(fields["system"] + fields["meta_instruction"] + fields["eosys"])
    for message in messages:
        if message["role"] not in boxes:
            raise TemplateError(f"LMDeploy has no box for a message of the role {message['role']!r}.")
        before, after = boxes[message["role"]]
        out.append(before + _text(message) + after)
    text = "".join(out)
    if messages and messages[-1]["role"] == "assistant":
        return text.removesuffix(answer_end)
    return text + fields["assistant"]


def _text(message: Message) -> str:
    """Return the content; of a list of parts LMDeploy takes the first one's text."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = content[0].get("text") if content and isinstance(content[0], dict) else None
    if not isinstance(content, str):
        raise TemplateError("The first part of a message is not a text.")
    return content
