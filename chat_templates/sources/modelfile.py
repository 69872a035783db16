"""An Ollama Modelfile as a template source: to compare with a checkpoint, and to migrate.

Knows what Ollama feeds for a Modelfile: its SYSTEM and MESSAGE lines, its TEMPLATE, the tokenizer's BOS. Does
not know the GGUF behind FROM, whose own chat template Ollama 0.30 and later may prefer.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from chat_templates.dialects.base import DialectFacts
from chat_templates.dialects.jinja import write_jinja
from chat_templates.dialects.ollama import OllamaDialect
from chat_templates.jinja_engine import JinjaRequest, RenderFailed
from chat_templates.modelfile import Modelfile
from chat_templates.sources.cutting import common_suffix
from chat_templates.sources.probe import Probed, depends_on_date, probe
from chat_templates.sources.source import TemplateSource
from chat_templates.template import ChatTemplate, Message
from errors import TemplateError

__all__ = ["ModelfileRenderer", "is_modelfile", "source_of_modelfile"]

_MARK = "NextQuestionMark"


def is_modelfile(path: Path) -> bool:
    """Whether `path` is named as Modelfiles are: Modelfile, Modelfile.q8_0, x.modelfile."""
    name = path.name.lower()
    return name == "modelfile" or name.startswith("modelfile.") or name.endswith(".modelfile")


def source_of_modelfile(spec: str, path: Path, modelfile: Modelfile, facts: DialectFacts) -> TemplateSource:
    """Return the source for `modelfile`, probed; `facts` are the tokenizer's. Raises `TemplateError`."""
    if modelfile.renderer:
        raise TemplateError(
            f"{path} names the RENDERER {modelfile.renderer}: Ollama's own code writes its prompts, and its "
            "TEMPLATE counts for nothing.",
            hint="Name the template it was trained with: --template family:NAME or FILE.jinja.",
        )
    if modelfile.template is None:
        raise TemplateError(
            f"{path} has no TEMPLATE.", hint="Take the one in its GGUF: --template FILE.gguf."
        )
    renderer = ModelfileRenderer(modelfile, facts)
    first = renderer.render_all("", [JinjaRequest(({"role": "user", "content": "Hello"},))])[0]
    if isinstance(first, RenderFailed):
        raise TemplateError(f"The TEMPLATE of {path} fails on one question: {first.message}")
    probed = _probed(path, renderer, facts)
    form = _with_stops(probed.form, renderer.stops) if probed.form else None
    reason = (probed.refusal or "no reason was found").replace("'", "")
    return TemplateSource(
        spec=spec,
        description=f"the TEMPLATE of the Modelfile {path}",
        origin="modelfile",
        # Whoever serves it although no Jinja can be written gets the reason, not a wrong prompt.
        jinja=write_jinja(form) if form else f"{{{{ raise_exception({reason!r}) }}}}",
        form=form,
        form_refusal=None if form else probed.refusal,
        bos_token=facts.bos_token,
        eos_token=facts.eos_token,
        engine=renderer,
    )


def _probed(path: Path, renderer: ModelfileRenderer, facts: DialectFacts) -> Probed:
    if renderer.modelfile.messages:
        return Probed(None, "its MESSAGE lines stand in front of every conversation")
    if depends_on_date("", worker=renderer):
        return Probed(None, "it writes today's date into the prompt")
    bos, eos = facts.bos_token, facts.eos_token
    return probe("", name=path.stem.lower(), bos_token=bos, eos_token=eos, worker=renderer)


def _with_stops(form: ChatTemplate, stops: tuple[str, ...]) -> ChatTemplate:
    """Name the Modelfile's stops, the one that ends an answer first."""
    ending = form.assistant.suffix
    return replace(form, stop=tuple(sorted(stops, key=lambda stop: not ending.startswith(stop))))


@dataclass(frozen=True)
class ModelfileRenderer:
    """Renders conversations as Ollama feeds them; in the place of the Jinja worker for probing."""

    modelfile: Modelfile
    facts: DialectFacts
    dialect: OllamaDialect = field(default_factory=OllamaDialect)

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(str(value) for value in self.modelfile.values("stop") if value))

    def render(self, template: str, request: JinjaRequest) -> str:
        """Return the prompt for `request`; `template` is not looked at. Raises `RenderFailed`."""
        result = self.render_all(template, [request])[0]
        if isinstance(result, RenderFailed):
            raise result
        return result

    def render_all(self, template: str, requests: Sequence[JinjaRequest]) -> list[str | RenderFailed]:
        """Return what `render` does for each request, a failure in the place of its text."""
        return [self._one(request) for request in requests]

    def _one(self, request: JinjaRequest) -> str | RenderFailed:
        try:
            if request.add_generation_prompt or request.continue_final_message:
                return self.prompt(request)
            return self._closed(request)
        except TemplateError as error:
            return RenderFailed(error.message, kind="raised", hint=error.hint)

    def prompt(self, request: JinjaRequest) -> str:
        """Return what Ollama feeds. Raises `TemplateError`, also for wishes that Ollama does not know."""
        now = datetime.datetime.fromisoformat(request.now) if request.now else None
        return self.dialect.render(
            self.modelfile.template or "",
            self._with_own(request.messages),
            replace(self.facts, now=now),
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            tools=request.tools,
            thinking=request.variables.get("enable_thinking"),
        )

    def _with_own(self, messages: Sequence[Message]) -> list[Message]:
        """Add SYSTEM and MESSAGE as Ollama's chat handler does: a request that begins with a system message
        has no SYSTEM."""
        own = [{"role": role, "content": content} for role, content in self.modelfile.messages]
        system = self.modelfile.system
        if system and not (messages and messages[0]["role"] == "system"):
            return [{"role": "system", "content": system}, *own, *messages]
        return [*own, *messages]

    def _closed(self, request: JinjaRequest) -> str:
        """Return the text with the last answer closed, which Ollama never feeds: as the next question shows
        it. Its stops tell where the answer ends; otherwise what the first question follows too is the next
        turn's. Raises `TemplateError`."""
        if not request.messages or request.messages[-1]["role"] != "assistant":
            raise TemplateError("Ollama has no prompt for a question without asking for an answer.")
        asked: Message = {"role": "user", "content": _MARK}
        go_on = replace(request, add_generation_prompt=True, messages=(*request.messages, asked))
        text = self.prompt(go_on).partition(_MARK)[0]
        head = self.prompt(replace(go_on, messages=(asked,))).partition(_MARK)[0]
        lead, content, rest = text.rpartition(request.messages[-1]["content"])
        plain = head.removeprefix(self.facts.bos_token or "")
        ends = [rest.find(s) + len(s) for s in self.stops if s in rest and not plain.startswith(s)]
        closing = rest[: min(ends)] if ends else rest.removesuffix(common_suffix(head, rest))
        return lead + content + closing
