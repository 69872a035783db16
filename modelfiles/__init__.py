"""The Ollama Modelfile: its facts, writing, reading, checking, and the one of a checkpoint."""

from chat_templates.modelfile import Modelfile
from chat_templates.modelfile_grammar import parse
from modelfiles.build import CONTEXT, modelfile_for
from modelfiles.lint import lint
from modelfiles.rest import create_request
from modelfiles.write import write

__all__ = ["CONTEXT", "Modelfile", "create_request", "lint", "modelfile_for", "parse", "write"]
