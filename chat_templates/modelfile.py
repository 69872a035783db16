"""`Modelfile`: what an Ollama Modelfile says, as plain facts.

Knows the commands and the parameters (Ollama 0.33.0). Does not know the grammar, nor any checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from errors import TemplateError

__all__ = ["DEPRECATED", "PARAMETERS", "Modelfile", "Value", "typed"]

Value = str | int | float
"""A parameter's value; a bool is an int here as in Python."""

PARAMETERS: dict[str, type] = {
    **dict.fromkeys(
        (
            *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "seed"),
            *("num_predict", "top_k", "repeat_last_n"),
        ),
        int,
    ),
    **dict.fromkeys(
        (
            *("top_p", "min_p", "typical_p", "temperature", "repeat_penalty"),
            *("presence_penalty", "frequency_penalty"),
        ),
        float,
    ),
    "use_mmap": bool,
    "stop": str,
}
"""The parameters Ollama knows, and the type it reads each as."""

DEPRECATED = frozenset(
    (
        *("penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock"),
        *("mirostat", "mirostat_tau", "mirostat_eta"),
    )
)


@dataclass(frozen=True)
class Modelfile:
    """One Modelfile. Texts are the values as Ollama would hold them, without quotes."""

    from_: str
    """A GGUF's path relative to the Modelfile (`./x.gguf`), or a model's name."""
    template: str | None = None
    system: str | None = None
    parameters: tuple[tuple[str, Value], ...] = ()
    messages: tuple[tuple[str, str], ...] = ()
    """Role (system, user, assistant) and content."""
    license: tuple[str, ...] = ()
    adapter: str | None = None
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Sentences for its comments, which Ollama does not read."""

    def values(self, name: str) -> tuple[Value, ...]:
        """Return every value of the parameter `name`, in order."""
        return tuple(value for known, value in self.parameters if known == name)


def typed(name: str, text: str) -> Value:
    """Return a parameter's value as the type Ollama gives it; unknown parameters stay text.

    Raises `TemplateError` for a value that Ollama could not read.
    """
    kind = PARAMETERS.get(name, str)
    if kind is bool:
        known = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
        if text.lower() in known:
            return known[text.lower()]
    elif kind is str or (text.isascii() and "_" not in text):  # Python reads more digits than Go does
        try:
            value: Value = kind(text)
        except ValueError:
            pass
        else:
            return value
    names = {int: "a whole number", float: "a number", bool: "true or false"}
    raise TemplateError(f"The Modelfile's PARAMETER {name} is {text!r}, not {names[kind]}.")
