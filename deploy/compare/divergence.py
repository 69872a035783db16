"""How far the token probabilities of a model are from those of a reference.

The definitions are those of llama.cpp's perplexity tool: perplexity over the true next tokens, and the
Kullback-Leibler divergence KL(reference ‖ model) over the whole vocabulary at every position, in nats. Does
not know where logits come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Divergence", "Positions", "log_probabilities", "positions", "summarize"]

Floats = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Positions:
    """What was seen at each position; all arrays have one entry a position."""

    nll: Floats
    """Minus the log probability of the true next token."""
    kl: Floats
    """KL divergence from the reference."""
    same_top: Floats
    """Whether both find the same token likeliest."""
    shift: Floats
    """Probability of the true next token, less the reference's."""


@dataclass(frozen=True)
class Divergence:
    """`*_error` are standard errors of the mean over `tokens` positions."""

    tokens: int
    perplexity: float
    perplexity_error: float
    kl: float
    kl_error: float
    kl_p99: float
    kl_max: float
    same_top: float
    """Share of positions, 0 to 1."""
    rms_shift: float
    """Root mean square of the change of the true token's probability, 0 to 1."""


def log_probabilities(logits: Floats) -> Floats:
    """Return the log softmax of (positions, vocabulary) logits, float32, summed in float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    sums = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    return np.asarray(shifted - np.log(sums).astype(np.float32), np.float32)


def positions(model: Floats, reference: Floats, following: Floats) -> Positions:
    """Compare (positions, vocabulary) log probabilities; `following` are the ids of the true next tokens."""
    rows = np.arange(len(following))
    true, true_reference = model[rows, following], reference[rows, following]
    kl = (np.exp(reference) * (reference - model)).sum(axis=-1, dtype=np.float64)
    return Positions(
        nll=-true.astype(np.float64),
        kl=np.maximum(kl, 0.0),  # rounding makes it negative where both agree
        same_top=model.argmax(axis=-1) == reference.argmax(axis=-1),
        shift=np.exp(true) - np.exp(true_reference),
    )


def summarize(found: Positions) -> Divergence:
    """Return the means over all positions, with their standard errors."""
    perplexity = math.exp(float(found.nll.mean()))
    return Divergence(
        tokens=len(found.nll),
        perplexity=perplexity,
        perplexity_error=perplexity * _standard_error(found.nll),
        kl=float(found.kl.mean()),
        kl_error=_standard_error(found.kl),
        kl_p99=float(np.quantile(found.kl, 0.99)),
        kl_max=float(found.kl.max()),
        same_top=float(found.same_top.mean()),
        rms_shift=float(np.sqrt(np.mean(np.square(found.shift, dtype=np.float64)))),
    )


def _standard_error(values: Floats) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
