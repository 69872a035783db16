"""Llama and Mistral: GGUF's `llama`.

The rows of q and k are reordered, because llama.cpp rotates neighbouring pairs where Hugging Face rotates the
two halves of a head. The scaling of Llama 3.1 becomes a tensor of frequency factors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from checkpoint import Finding, ModelConfig
from convert.architectures.base import ComputedTensor, Family, common_fields, layer_rules, window_findings
from convert.fields import Field, uint32
from errors import ConversionError

__all__ = ["LLAMA"]

_BIASED = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def _fields(config: ModelConfig) -> tuple[Field, ...]:
    scalings = ("linear", "yarn", "dynamic", "llama3")
    return (
        *common_fields("llama", config, head_dim=True, scalings=scalings),
        uint32("llama.vocab_size", config.vocab_size),
        uint32("llama.rope.dimension_count", config.head_dim),
    )


def _computed(config: ModelConfig) -> tuple[ComputedTensor, ...]:
    scaling = config.rope_scaling
    if scaling is None or str(scaling["rope_type"]).lower() != "llama3":
        return ()
    theta = 10000.0 if config.rope_theta is None else config.rope_theta
    try:
        return (ComputedTensor("rope_freqs.weight", _llama3_factors(scaling, theta, config.head_dim)),)
    except (TypeError, ValueError, ZeroDivisionError):
        raise ConversionError(
            f"config.json has a rope_scaling of type llama3 that makes no sense: {dict(scaling)!r}.",
            hint="Compare the file with the base model's.",
        ) from None


def _llama3_factors(scaling: Mapping[str, Any], theta: float, head_dim: int) -> tuple[float, ...]:
    """Return by how much each of head_dim / 2 frequencies is divided: 1 for the fast ones, `factor` for the
    slow.

    In float32 throughout, as the stock converter computes it.
    """
    factor = float(scaling.get("factor", 8.0))
    low = float(scaling.get("low_freq_factor", 1.0))
    high = float(scaling.get("high_freq_factor", 4.0))
    original = float(scaling.get("original_max_position_embeddings", 8192))
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = np.float32(1.0) / np.power(np.float32(theta), exponents)
    factors = []
    for frequency in frequencies:
        wavelength = np.float32(2 * math.pi) / frequency
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (np.float32(original) / wavelength - np.float32(low)) / np.float32(high - low)
            factors.append(float(1 / ((1 - smooth) / np.float32(factor) + smooth)))
    return tuple(factors)


def _findings(config: ModelConfig) -> tuple[Finding, ...]:
    return window_findings(config, active=config.architecture == "MistralForCausalLM")


LLAMA = Family(
    name="llama",
    architectures=("LlamaForCausalLM", "MistralForCausalLM"),
    rules=layer_rules(biased=_BIASED, interleaved=True),
    fields=_fields,
    computed=_computed,
    findings=_findings,
)
