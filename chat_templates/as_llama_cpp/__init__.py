"""How llama.cpp's server makes a prompt of a chat template and a conversation.

    values      texts, lists and objects
    filters     their filters and methods
    language    its own Jinja, said with Python's
    abilities   how it finds out what a template can read
    thoughts    how it finds out how a template writes thoughts
    handing     what it hands over to the template, and how it continues an answer

Measured on llama.cpp of October 2026, and read in its source (MIT). What cannot be foretold is an
`Unpredictable`, never a guess. This package runs inside the Jinja worker's process only: it imports jinja2,
the standard library, and its own modules by relative names, since the worker knows no `chat_templates`.
"""

from .handing import Renderer
from .language import make_environment
from .values import Unpredictable

__all__ = ["Renderer", "Unpredictable", "make_environment"]
