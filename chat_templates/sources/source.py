"""`TemplateSource`: the template a model was trained with, whatever it was read from.

Knows how to render the truth: through the Jinja worker when the source is a Jinja, as Ollama does when it is
a Modelfile, with the form's own renderer otherwise. Does not know where the text came from (`load`) nor how a
form is found (`probe`).
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from chat_templates.jinja_engine import JinjaRequest, Renderer, shared_worker, switch
from chat_templates.template import ChatTemplate, Message
from errors import TemplateError

__all__ = ["TemplateSource"]


@dataclass(frozen=True)
class TemplateSource:
    """One chat template: its Jinja text, its form if it has one, and the truth about its prompts."""

    spec: str
    """What the user named: `checkpoint`, `family:smollm2`, `x.jinja`."""
    description: str
    """One line for people, such as "the checkpoint's own chat_template.jinja"."""
    origin: Literal["jinja", "form", "modelfile"]
    jinja: str
    """The Jinja dialect: the original text byte for byte, or written from the form."""
    form: ChatTemplate | None
    form_refusal: str | None = None
    """Why probing found no form, in words; None when there is one."""
    bos_token: str | None = None
    eos_token: str | None = None
    """The texts handed to Jinja as `bos_token` and `eos_token`."""
    other_tokens: Mapping[str, str] = field(default_factory=dict)
    """Further special tokens handed to Jinja, such as `pad_token`, by name."""
    typed_content: bool = False
    """The Jinja reads contents as lists of parts only; engines that run it see that and hand them over so."""
    engine: Renderer | None = None
    """Renders the truth of a Modelfile; None is the Jinja worker."""
    now: datetime.datetime | None = None
    """The date of prompts that hold it; None is the real clock."""

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
        thinking: bool | None = None,
    ) -> str:
        """Return the training prompt for `messages`. Raises `TemplateError` when the template does."""
        if self.origin == "form":
            if self.form is None:
                raise TemplateError(f"The template source {self.spec} has no form to render.")
            return self.form.render(
                messages,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                thinking=thinking,
                now=self.now,
            )
        return (self.engine or shared_worker()).render(
            self.jinja, self.request(messages, add_generation_prompt, continue_final_message, tools, thinking)
        )

    @functools.cached_property
    def gguf_jinja(self) -> str:
        """The text for a GGUF file: `jinja`, behind what llama.cpp must be kept from doing to it."""
        from chat_templates.dialects.gguf import gguf_jinja

        return gguf_jinja(self)

    def begins_with_bos(self) -> bool | None:
        """Whether the training prompts begin with the BOS token; None where that cannot be known."""
        if not self.bos_token:
            return None
        try:
            return self.render([{"role": "user", "content": "Hello"}]).startswith(self.bos_token)
        except TemplateError:
            return None

    def request(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
        thinking: bool | None = None,
    ) -> JinjaRequest:
        """Return the worker's request for one conversation with this source's special tokens."""
        return JinjaRequest(
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            bos_token=self.bos_token,
            eos_token=self.eos_token,
            variables={**self.other_tokens, **switch(thinking)},
            typed_content=self.typed_content,
            now=self.now.isoformat() if self.now else None,
        )
