"""The Ollama Modelfile: its facts, writing, reading, checking, and the one of a checkpoint."""

from modelfiles.build import CONTEXT, modelfile_for
from modelfiles.lint import lint
from modelfiles.model import Modelfile
from modelfiles.parse import parse
from modelfiles.write import write

__all__ = ["CONTEXT", "Modelfile", "lint", "modelfile_for", "parse", "write"]
