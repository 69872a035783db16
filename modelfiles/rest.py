"""A Modelfile as the body of POST /api/create, which carries any text: there is no grammar to survive.

Knows the names of the fields (Ollama 0.33.0). Does not know HTTP, nor how a blob gets to the server.
"""

from __future__ import annotations

from typing import Any

from chat_templates.modelfile import PARAMETERS, Modelfile, Value
from errors import TemplateError

__all__ = ["create_request"]


def create_request(modelfile: Modelfile, name: str, digest: str) -> dict[str, Any]:
    """Return the body that creates the model `name` from the GGUF blob `digest` (`sha256:…`).

    What FROM names is only a label there. Raises `TemplateError` for a value whose type Ollama would accept
    now and stumble over at the first chat.
    """
    texts = {
        "template": modelfile.template,
        "system": modelfile.system,
        "renderer": modelfile.renderer,
        "parser": modelfile.parser,
    }
    lists = {
        "license": list(modelfile.license),
        "messages": [{"role": role, "content": content} for role, content in modelfile.messages],
        "parameters": _parameters(modelfile),
    }
    label = modelfile.from_.rpartition("/")[2]
    given = {key: value for key, value in {**texts, **lists}.items() if value}
    return {"model": name, "files": {label: digest}, **given, "stream": True}


def _parameters(modelfile: Modelfile) -> dict[str, Value | list[Value]]:
    """Return each parameter once; `stop` is a list even of one."""
    found: dict[str, Value | list[Value]] = {}
    for name, value in modelfile.parameters:
        kind = PARAMETERS.get(name, object)
        if not isinstance(value, (int, float) if kind is float else kind):
            raise TemplateError(f"The parameter {name} is {value!r}, which Ollama cannot use.")
        found[name] = list(modelfile.values(name)) if name == "stop" else value
    return found
