"""The user's request as facts: the checkpoint, the template it was trained with, and its stop ids.

Does not know engines.
"""

from __future__ import annotations

from dataclasses import dataclass

from chat_templates import Stops, TemplateSource, analyse_stops, load_source
from checkpoint import Checkpoint
from deploy.engines.base import ServeRequest
from errors import TemplateError

__all__ = ["Training", "read_training"]


@dataclass(frozen=True)
class Training:
    """A checkpoint and how it was trained; `source` None: it has no template and is served as it is."""

    checkpoint: Checkpoint
    source: TemplateSource | None
    stops: Stops | None


def read_training(request: ServeRequest) -> Training:
    """Read the checkpoint that `request` names. Raises what `Checkpoint.open` and `load_source` raise."""
    checkpoint = Checkpoint.open(request.model)
    try:
        source = load_source(request.source, checkpoint)
    except TemplateError:
        if not request.as_is:
            raise
        return Training(checkpoint, None, None)
    return Training(checkpoint, source, analyse_stops(source, checkpoint))
