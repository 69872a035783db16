"""What a server itself tells of the work it does for others, so that a busy one is not taken for a dead one.

    vLLM, LMDeploy   GET /metrics   requests running and waiting, tokens generated so far
    llama.cpp        GET /metrics   the same, where it was started with --metrics
                     GET /slots     which slots are at work, and how far
    Ollama           GET /api/ps    when each model is due to be unloaded: that moves when a request has ended

Ollama counts no requests, and servers that nobody knows tell nothing. Does not judge (`watch`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.client import Client, ServerKind

__all__ = ["UNTOLD", "Traffic", "read_traffic"]


@dataclass(frozen=True)
class Traffic:
    """One look. `running`: requests in progress and waiting, ours among them; None: it does not tell."""

    source: str | None
    """Where it was told."""
    running: int | None = None
    mark: float | tuple[Any, ...] | None = None
    """Another value than before: work was done. None: it does not tell."""
    count: float | None = None
    """What only grows as long as the engine lives: tokens, numbers of tasks."""

    def moved_since(self, earlier: Traffic) -> bool:
        """Work was done between the two looks."""
        return self.mark is not None and earlier.mark is not None and self.mark != earlier.mark

    def restarted_since(self, earlier: Traffic) -> bool:
        """The count fell: the engine is another one than it was."""
        return self.count is not None and earlier.count is not None and self.count < earlier.count


UNTOLD = Traffic(None)
"""Of a server that tells nothing."""

_METRICS: Mapping[ServerKind, tuple[tuple[str, ...], str]] = {
    "vllm": (("vllm:num_requests_running", "vllm:num_requests_waiting"), "vllm:generation_tokens_total"),
    "lmdeploy": (
        ("lmdeploy:num_requests_running", "lmdeploy:num_requests_waiting"),
        "lmdeploy:generation_tokens_total",
    ),
    "llama.cpp": (
        ("llamacpp:requests_processing", "llamacpp:requests_deferred"),
        "llamacpp:tokens_predicted_total",
    ),
}
"""Gauges of requests, and the counter of generated tokens."""


def read_traffic(client: Client, kind: ServerKind) -> Traffic:
    """Ask the server; `UNTOLD` where it does not tell."""
    if kind == "ollama":
        return _from_ps(client.get("/api/ps").json)
    if kind not in _METRICS:
        return UNTOLD
    reply = client.get("/metrics")
    found = _from_metrics(reply.text, *_METRICS[kind]) if reply.ok else UNTOLD
    if found is UNTOLD and kind == "llama.cpp":
        return _from_slots(client.get("/slots").json)
    return found


def _from_metrics(text: str, gauges: Iterable[str], counter: str) -> Traffic:
    """Read Prometheus' text format; engines of several processes have a sample for each."""
    from prometheus_client.parser import text_string_to_metric_families

    sums: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    except (ValueError, KeyError, IndexError):
        return UNTOLD
    running = [sums[name] for name in gauges if name in sums]
    if counter not in sums and not running:
        return UNTOLD
    tokens = sums.get(counter)
    return Traffic("/metrics", round(sum(running)) if running else None, tokens, tokens)


def _from_slots(slots: Any) -> Traffic:
    if not isinstance(slots, list) or not all(isinstance(slot, dict) for slot in slots):
        return UNTOLD
    at_work = sum(slot.get("is_processing") is True for slot in slots)
    mark = tuple((slot.get("id_task"), str(slot.get("next_token"))) for slot in slots)
    tasks = [slot["id_task"] for slot in slots if isinstance(slot.get("id_task"), int)]
    return Traffic("/slots", at_work, mark, max(tasks, default=None))


def _from_ps(body: Any) -> Traffic:
    models = body.get("models") if isinstance(body, dict) else None
    if not isinstance(models, list):
        return UNTOLD
    mark = tuple((model.get("name"), model.get("expires_at")) for model in models if isinstance(model, dict))
    return Traffic("/api/ps", None, mark)
