"""`check_health`: climb the ladder of a running server, ours or anybody's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from deploy.client import Client
from deploy.ladder import TOKEN_SECONDS, Ladder, Target
from deploy.report import HealthReport, Rung

if TYPE_CHECKING:
    from chat_templates import TemplateSource
    from checkpoint import Checkpoint

__all__ = ["check_health"]


def check_health(
    url: str,
    *,
    checkpoint: Checkpoint | None = None,
    source: TemplateSource | None = None,
    api_key: str | None = None,
    model: str | None = None,
    wait: float = 0.0,
    token_seconds: float = TOKEN_SECONDS,
    on_rung: Callable[[Rung], None] | None = None,
    on_wait: Callable[[float, str], None] | None = None,
) -> HealthReport:
    """Check the OpenAI-compatible server at `url` (with or without /v1) and return all rungs.

    `model`: the name it must list, by default the first one it does. With `source` the prompts it feeds the
    model are compared with training, with `checkpoint` their token ids too. `wait`: seconds to let it come
    up; `token_seconds`: how long its first token may take. Raises `UsageError` for what is no URL; a server
    that is down is a report, not an exception.
    """
    with Client(url, api_key=api_key) as client:
        target = Target(model=model, source=source, checkpoint=checkpoint)
        return Ladder(
            client, target, patience=wait, token_seconds=token_seconds, on_rung=on_rung, on_wait=on_wait
        ).climb()
