"""What a dialect of the chat template is: one engine's way of writing it down, and that engine's renderer.

Knows the protocol every dialect follows and the facts about the tokenizer that the prompts depend on.
Does not know any particular dialect, nor how equality is proven.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from chat_templates.template import ChatTemplate, Message
from errors import TemplateError

if TYPE_CHECKING:
    from chat_templates.sources.source import TemplateSource
    from chat_templates.stops import Stops

__all__ = ["Dialect", "DialectFacts", "DialectRefused"]


@dataclass(frozen=True)
class DialectFacts:
    """What a dialect must know about the checkpoint beyond the template."""

    bos_token: str | None = None
    eos_token: str | None = None
    adds_bos: bool = False
    """The engine's tokenizer puts BOS in front of every prompt by itself."""
    model_type: str = ""
    """What config.json calls the architecture."""
    name: str = "model"
    """The model's name, for identifiers that must be unique."""
    other_tokens: Mapping[str, str] = field(default_factory=dict)
    """Further special tokens by the names templates know them under, such as `pad_token`."""
    typed_content: bool = False
    """The engine hands contents to a Jinja as lists of parts, because the Jinja reads nothing else."""
    now: datetime.datetime | None = None
    """The engine's clock; None is the real one."""

    def begins_with_bos(self, form: ChatTemplate) -> bool:
        """Whether the prompts of `form` begin with the BOS token."""
        return bool(self.bos_token) and form.bos.startswith(self.bos_token or "")

    def extra_bos(self, form: ChatTemplate) -> str | None:
        """Say in words that the tokenizer adds a BOS which training did not have; None where it does not."""
        if not self.adds_bos or self.begins_with_bos(form):
            return None
        token = self.bos_token or "a BOS token"
        return f"the tokenizer puts {token} in front, but the training text does not begin with it"


class DialectRefused(TemplateError):
    """The dialect has no way to say this template at all; the message is the reason in words."""


class Dialect(Protocol):
    """One engine's template language."""

    @property
    def name(self) -> str: ...

    @property
    def reads(self) -> Literal["checkpoint", "gguf"]:
        """Where the engine's tokenizer comes from: whether BOS is added may differ between the two."""

    @property
    def filename(self) -> str:
        """The name its file has in an output directory."""

    def write(self, source: TemplateSource, stops: Stops | None, facts: DialectFacts) -> str:
        """Return the file's text. Raises `DialectRefused` when the template cannot be said at all."""

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
        """Return the prompt the engine feeds the model when its template file is `text`.

        BOS is part of it whoever adds it. Raises `TemplateError` where the engine would fail, and
        `DialectRefused` where the engine has no such request at all (no tools, no continuation).
        """
