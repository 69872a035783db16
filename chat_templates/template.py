"""`ChatTemplate`: the one form in which every chat template is held, and its reference renderer.

The form is a handful of strings around the contents of the messages. Measured on several hundred public
templates, about nine in ten are exactly this for plain chats. What a template does beyond the form is
found by the proof, never guessed. The form holds no Jinja, no Go and no engine.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from chat_templates.dates import dated, filled
from chat_templates.rounds import ROUND, numbered
from chat_templates.thinking import Thinking, reasoning_of, stripped_at_start
from chat_templates.tools import ToolFormat
from errors import TemplateError

__all__ = ["ChatTemplate", "Markup", "Message", "Thinking"]

Message = Mapping[str, Any]
"""One message as the OpenAI API writes it: `role`, `content`, and whatever else a tool call carries."""


@dataclass(frozen=True)
class Markup:
    """The text put before and after the content of one message."""

    prefix: str = ""
    suffix: str = ""

    def around(self, content: str) -> str:
        return f"{self.prefix}{content}{self.suffix}"


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template as prefixes and suffixes; see `render` for the exact meaning of each field.

    Texts may hold today's date as a pattern between the marks of `chat_templates.dates`.
    """

    name: str
    user: Markup
    assistant: Markup
    generation_prompt: str
    system: Markup | None = None
    """None: the template does not accept a system message."""
    tool: Markup | None = None
    """Around a tool's result. None: the form does not cover tools."""
    bos: str = ""
    """Text that begins every prompt, the BOS token's included, whoever writes it."""
    system_placement: Literal["own_turn", "first_user", "last_user"] = "own_turn"
    """In a turn of its own, inside the first user message, or inside the last message if that is a user's."""
    default_system: str | None = None
    """The system message used when the conversation has none."""
    no_system: str = ""
    """Text in the place of the system block when there is neither a system message nor a default."""
    empty_system: Literal["block", "absent"] = "block"
    """Whether an empty system message is written as an empty block or treated like a missing one."""
    empty_text: str | None = None
    """Instead of an empty block: the text for an empty system message."""
    begun: str = ""
    """Text in front of the answer in the last message, such as the empty thoughts of Qwen3."""
    separator: str = ""
    """Text between an assistant's turn and the next turn; not part of what the model generates."""
    last_question: str = ""
    """Text in front of the last message's content, if that message is a user's."""
    trimmed: frozenset[str] = frozenset()
    """Roles whose contents lose leading and trailing white space."""
    dropped: frozenset[str] = frozenset()
    """Roles whose contents are not written at all; what stands around them is."""
    thinking: Thinking | None = None
    tools: ToolFormat | None = None
    """How definitions, calls and results are written; None where the form does not cover them."""
    tools_refusal: str | None = None
    """Why the form does not cover tools although the template does something with them, in words."""
    stop: tuple[str, ...] = field(default=())
    """Texts that end the assistant's turn, most important first."""

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
        thinking: bool | None = None,
        now: datetime.datetime | None = None,
    ) -> str:
        """Return the prompt text for `messages`.

        `continue_final_message` leaves the last (assistant) message open for the model to go on with.
        `tools` are the definitions on offer; a form that does not cover tools writes nothing of them.
        `thinking` turns the model's thoughts on or off; None leaves that to the template.
        `now` is the date of a template that writes it, the real one if it is None.
        Raises `TemplateError` for a message the form cannot express.
        """
        if self.dated:
            return self.on(now or datetime.datetime.now()).render(
                messages,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                thinking=thinking,
            )
        block, turns = self._split(messages)
        out = [self.bos]
        offered = self.tools is not None and bool(tools)
        if self.tools is not None and tools:
            out.append(self.tools.block(self._instructions(messages), tools))
            block = ""
        if self.system_placement == "own_turn":
            out.append(block)
            block = ""
        out += self._turns(turns, block, offered=offered, open_end=continue_final_message)
        if add_generation_prompt and not continue_final_message:
            usual = self.generation_prompt
            out.append(self.thinking.generation_prompt(usual, thinking) if self.thinking else usual)
        return "".join(out)

    def _turns(self, turns: Sequence[Message], block: str, *, offered: bool, open_end: bool) -> Iterator[str]:
        """Yield the texts of all turns; `block` is the system block that goes into a question.

        `offered`: there are tools on offer. `open_end`: the last answer is left open. Raises `TemplateError`.
        """
        last, questions = len(turns) - 1, 0
        asked = max((i for i, message in enumerate(turns) if message["role"] == "user"), default=-1)
        for index, message in enumerate(turns):
            role = message["role"]
            lead, content = self._said(message, last=index == last, past=index < asked)
            special = self._tool_turn(turns, index, lead, content, offered=offered)
            if special is not None:
                yield special
            elif role == "user":
                questions += 1
                here = self.system_placement != "last_user" or index == last
                before = (block if here else "") + (self.last_question if index == last else "")
                block = "" if here else block
                yield numbered(self.user.prefix, questions) + before
                yield self._shown(role, content) + self.user.suffix
            elif role == "assistant":
                yield self._answer_prefix(content) + (lead or (self.begun if index == last else ""))
                yield self._shown(role, content)
                yield "" if open_end and index == last else self.assistant.suffix
                yield self.separator if index < last else ""
            elif role == "tool" and self.tool is not None:
                yield self.tool.around(self._shown(role, content))
            else:
                raise TemplateError(
                    f"The chat template {self.name!r} has no place for a {role!r} message here."
                )

    @property
    def dated(self) -> bool:
        """Whether today's date is part of its texts."""
        return dated(self)

    @property
    def counted(self) -> bool:
        """Whether the text in front of a question holds its number."""
        return ROUND in self.user.prefix

    def on(self, now: datetime.datetime) -> ChatTemplate:
        """Return the template as it is on the day `now`."""
        form: ChatTemplate = filled(self, now)
        return form

    def _instructions(self, messages: Sequence[Message]) -> str | None:
        """Return the system message's text; None where there is none that counts."""
        if not messages or messages[0]["role"] != "system":
            return None
        content = self._content(messages[0])
        return content if content or self.empty_system == "block" else None

    def _tool_turn(
        self, turns: Sequence[Message], index: int, lead: str, content: str, *, offered: bool
    ) -> str | None:
        """Return the text of a turn that tools make different; None for any other. Raises `TemplateError`.

        `lead` is the thought in front of an answer's content.
        """
        if self.tools is None:
            return None
        message, role = turns[index], turns[index]["role"]
        before = turns[index - 1] if index else {"role": ""}
        after = turns[index + 1]["role"] if index + 1 < len(turns) else ""
        if offered and self.tools.in_user and not index:
            if role != "user":
                raise TemplateError(f"The chat template {self.name!r} needs a question to put tools in.")
            return self._shown(role, content) + self.user.suffix
        if role == "assistant" and message.get("tool_calls"):
            if after != "tool":
                raise TemplateError(
                    f"The form of {self.name!r} has tool calls only in front of their results."
                )
            text = self.tools.calls(content, message["tool_calls"])
            at = self.thought_place(text)
            return text[:at] + lead + text[at:]
        if role == "tool":
            if before["role"] != "tool" and not before.get("tool_calls"):
                raise TemplateError(f"The form of {self.name!r} has a tool's result only behind its call.")
            return self.tools.result(content, first=before["role"] != "tool", last=after != "tool")
        return None

    def _split(self, messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
        """Return the system block and the other messages."""
        if not messages or messages[0]["role"] != "system":
            return self.missing_system, messages
        if self.system is None:
            raise TemplateError(f"The chat template {self.name!r} does not accept a system message.")
        content = self._content(messages[0])
        if not content and self.empty_system == "absent":
            return self.missing_system, messages[1:]
        if not content and self.empty_text is not None:
            return self.empty_text, messages[1:]
        return self.system.around(self._shown("system", content)), messages[1:]

    @property
    def missing_system(self) -> str:
        """The text in the place of the system block when the conversation has no system message."""
        if self.system is None or self.default_system is None:
            return self.no_system
        return self.system.around(self.default_system)

    def _shown(self, role: str, content: str) -> str:
        return "" if role in self.dropped else content

    def _answer_prefix(self, content: str) -> str:
        thinking = self.thinking
        if thinking is None or thinking.prefix is None or not thinking.marks(content):
            return self.assistant.prefix
        return thinking.prefix

    def thought_place(self, text: str) -> int:
        """Return where in the `text` of a turn that calls tools a thought stands: behind the prefix."""
        return len(self.assistant.prefix) if text.startswith(self.assistant.prefix) else 0

    def _said(self, message: Message, *, last: bool, past: bool) -> tuple[str, str]:
        """Return the thought in front of a message's content, and the content as it is written.

        `last`: it is the last message. `past`: it is before the last question.
        """
        content, thinking = self._content(message), self.thinking
        if message["role"] != "assistant" or thinking is None:
            return "", content
        written = thinking.past if past else thinking.current
        thought = reasoning_of(message)
        if thought and written:
            return written.lead(thought), stripped_at_start(content, written.strip_answer)
        if past or (thinking.strip_current and not last):
            answer = thinking.without(self._text(message))
            content = answer.strip() if "assistant" in self.trimmed else answer
        return "", content

    def _content(self, message: Message) -> str:
        content = self._text(message)
        return content.strip() if message["role"] in self.trimmed else content

    def _text(self, message: Message) -> str:
        content = message.get("content") or ""
        if not isinstance(content, str):
            raise TemplateError(f"The chat template {self.name!r} takes text only, not a list of parts.")
        return content
