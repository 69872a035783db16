"""The Modelfile of a checkpoint: its proven template, its stops, its sampling, a context that fits.

Knows what comes from where. Does not know the grammar (`write`) nor Ollama's server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chat_templates.modelfile import Modelfile, Value
from chat_templates.modelfile_grammar import dropped
from chat_templates.proof_results import Proof
from chat_templates.sources.source import TemplateSource
from chat_templates.stops import Stops
from chat_templates.template import ChatTemplate
from checkpoint import Checkpoint
from errors import TemplateError
from modelfiles.notes import notes
from modelfiles.write import write

__all__ = ["CONTEXT", "modelfile_for"]

CONTEXT = 8192
"""The largest num_ctx written without being asked. Ollama's own default (4096) silently drops messages, a
model's full context may need more memory than the model itself."""

_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}


def modelfile_for(
    checkpoint: Checkpoint,
    source: TemplateSource,
    stops: Stops,
    proof: Proof,
    gguf: Path | str,
    *,
    context: int | None = None,
    allow_inexact: bool = False,
    for_rest: bool = False,
) -> Modelfile:
    """Return the Modelfile that stands beside `gguf` (a path gives `FROM ./name`, a text stays as it is).

    `context` is num_ctx, by default the model's own up to `CONTEXT`. `for_rest`: it goes through
    Ollama's REST API, which carries any value, and never becomes a text. Raises `TemplateError` when Ollama's
    template was refused, is not exact for plain chats (unless `allow_inexact`), or a value cannot be
    carried by a Modelfile.
    """
    modelfile = Modelfile(
        from_=gguf if isinstance(gguf, str) else f"./{gguf.name}",
        template=_template(proof, allow_inexact),
        system=_system(source.form),
        parameters=(
            *(("stop", text) for text in stops.strings),
            ("num_ctx", context or min(checkpoint.config.context_length, CONTEXT)),
            *_sampling(checkpoint.generation.raw),
        ),
        notes=notes(proof),
    )
    if not for_rest:
        write(modelfile)  # raises for a value that cannot be carried
    return modelfile


def _template(proof: Proof, allow_inexact: bool) -> str:
    dialect = proof.dialects["ollama"]
    chat = dialect.classes.get("chat")
    if dialect.text is None:
        raise TemplateError(f"There is no Ollama template for a Modelfile. {dialect.refusal or ''}".strip())
    if chat is not None and chat.status == "refused" and not allow_inexact:
        raise TemplateError(
            f"The Ollama template is not exact for plain chats: {chat.reason}.",
            hint="Choose another --template, or accept it with --allow-inexact.",
        )
    return dialect.text


def _system(form: ChatTemplate | None) -> str | None:
    """Return the default system message, where saying it aloud changes nothing.

    The TEMPLATE holds it too, so nothing is lost when a Modelfile cannot carry it.
    """
    text = form.default_system if form else None
    if not text or form is None or form.system is None or "system" in form.dropped or dropped(text):
        return None
    return None if "system" in form.trimmed and text != text.strip() else text


def _sampling(raw: Any) -> list[tuple[str, Value]]:
    """Return generation_config.json's sampling under Ollama's names (its /v1 API ignores temperature)."""
    if raw.get("do_sample") is False:
        return []
    values = ((ollama, raw.get(name)) for name, ollama in _SAMPLING.items())
    numbers = [(name, value) for name, value in values if type(value) in (int, float)]
    return [(name, int(value) if name == "top_k" else float(value)) for name, value in numbers]
