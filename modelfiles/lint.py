"""What is wrong, or will surprise, in a Modelfile.

Knows what Ollama does without a word. Does not know the checkpoint: pass its BOS token to find a double BOS.
"""

from __future__ import annotations

from collections.abc import Iterator

from chat_templates.dialects.gotemplate_values import quote
from chat_templates.modelfile import DEPRECATED, PARAMETERS, Modelfile
from chat_templates.modelfile_grammar import dropped
from checkpoint import Finding

__all__ = ["lint"]


def lint(
    modelfile: Modelfile, *, bos_token: str | None = None, adds_bos: bool = False
) -> tuple[Finding, ...]:
    """Return the findings. `bos_token` and `adds_bos` are the facts of the GGUF's tokenizer."""
    return (
        *_missing(modelfile),
        *_parameters(modelfile),
        *_unprintable(modelfile),
        *_bos(modelfile, bos_token if adds_bos else None),
    )


def _missing(modelfile: Modelfile) -> Iterator[Finding]:
    if modelfile.template is None:
        yield Finding(
            "missing-template",
            "warning",
            "There is no TEMPLATE: Ollama guesses one from the GGUF's chat template, seldom the right one.",
            "Write TEMPLATE with the Go template of this model.",
        )
    if not modelfile.values("stop"):
        yield Finding(
            "missing-stop",
            "warning",
            "There is no PARAMETER stop: the model stops only at the tokens its GGUF marks as ends.",
            "Write one PARAMETER stop for each text that ends the assistant's turn.",
        )
    if not modelfile.values("num_ctx"):
        yield Finding(
            "num-ctx-missing",
            "warning",
            "There is no PARAMETER num_ctx: Ollama drops old messages to fit 4096 tokens, its default.",
            "Write PARAMETER num_ctx with the context length you can afford.",
        )


def _parameters(modelfile: Modelfile) -> Iterator[Finding]:
    for name in dict.fromkeys(name for name, _ in modelfile.parameters):
        if name in DEPRECATED:
            yield Finding("deprecated", "info", f"PARAMETER {name} is deprecated and ignored.", "Remove it.")
        elif name not in PARAMETERS:
            yield Finding(
                "unknown-parameter",
                "error",
                f"PARAMETER {name} is unknown: `ollama create` refuses the Modelfile.",
                "Remove or correct it.",
            )


def _unprintable(modelfile: Modelfile) -> Iterator[Finding]:
    texts = [("FROM", modelfile.from_), ("TEMPLATE", modelfile.template), ("SYSTEM", modelfile.system)]
    texts += [(f"PARAMETER {name}", str(value)) for name, value in modelfile.parameters]
    texts += [(f"MESSAGE {role}", content) for role, content in modelfile.messages]
    for name, text in texts:
        lost = dropped(text or "")
        if lost:
            yield Finding(
                "unprintable-rune",
                "error",
                f"{name} holds {quote(lost)}, which Ollama drops from a Modelfile.",
                'In a TEMPLATE write the character as a Go escape, such as {{ "\\u00a0" }}; otherwise create '
                "the model through Ollama's REST API.",
            )


def _bos(modelfile: Modelfile, bos_token: str | None) -> Iterator[Finding]:
    if bos_token and modelfile.template and bos_token in modelfile.template:
        yield Finding(
            "literal-bos",
            "error",
            f"TEMPLATE holds {bos_token}, which the tokenizer adds by itself: every prompt has it twice.",
            "Remove it from the TEMPLATE.",
        )
