"""Writing a Modelfile so that Ollama reads back every value as it is.

Knows which quoting a value survives, by reading it back. Does not know where the values come from. What no
quoting can carry is refused: Ollama would drop or cut it without a word.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from chat_templates.dialects.gotemplate_values import quote
from chat_templates.modelfile import Modelfile, Value
from chat_templates.modelfile_grammar import dropped, parse
from errors import TemplateError

__all__ = ["write", "written_value"]

_HEADER = {
    True: "Ollama before 0.30 uses the TEMPLATE below; later versions may use the chat template inside the "
    "GGUF instead.",
    False: "There is no TEMPLATE here: Ollama 0.30 and later use the chat template inside the GGUF, earlier "
    "versions guess one.",
}
_WIDTH = 110


def write(modelfile: Modelfile) -> str:
    """Return the text of `modelfile`. Raises `TemplateError` for a value that no quoting can carry."""
    notes = modelfile.notes or (_HEADER[modelfile.template is not None],)
    lines = [line for note in ("Written by Portside.", *notes) for line in textwrap.wrap(note, _WIDTH)]
    header = "".join(f"# {line}\n" for line in lines)
    return header + "".join(f"{name} {written_value(name, value)}\n" for name, value in _lines(modelfile))


def _lines(modelfile: Modelfile) -> Iterator[tuple[str, Value]]:
    yield "FROM", modelfile.from_
    for name in ("adapter", "requires", "renderer", "parser", "template", "system"):
        value = getattr(modelfile, name)
        if value is not None:
            yield name.upper(), value
    for name, value in modelfile.parameters:
        yield f"PARAMETER {name}", value
    for role, content in modelfile.messages:
        yield f"MESSAGE {role}", content
    for text in modelfile.license:
        yield "LICENSE", text


def written_value(name: str, value: Value) -> str:
    """Return `value` quoted for the command `name`. Raises `TemplateError` when Ollama would change it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    for candidate in _candidates(name, value):
        if _survives(candidate, value):
            return candidate
    lost = dropped(value)
    reason = (
        f"Ollama drops the characters {quote(lost)} from Modelfile values"
        if lost
        else 'a line of it ends like a closing """, and a Modelfile has no escapes'
    )
    raise TemplateError(
        f"The value of {name} cannot be written into a Modelfile: {reason}.",
        hint="Create the model through Ollama's REST API, which takes any text.",
    )


def _candidates(name: str, value: str) -> Iterator[str]:
    bare = name == "FROM" or value.replace(".", "").replace("-", "").isalnum()
    if bare:
        yield value
    if name.startswith("PARAMETER"):
        yield f'"{value}"'
    yield f'"""{value}"""'
    yield f'"{value}"'


def _survives(candidate: str, value: str) -> bool:
    try:
        return parse(f"FROM x\nSYSTEM {candidate}\nADAPTER end\n") == Modelfile(
            "x", system=value, adapter="end"
        )
    except TemplateError:
        return False
