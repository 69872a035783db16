"""Values of config.json that only some families have, checked.

Each function raises `ConversionError` for a value that makes no sense. Does not know what they are for.
"""

from __future__ import annotations

from typing import Any

from checkpoint import ModelConfig
from errors import ConversionError

__all__ = ["dense_layers", "number_of", "rotated_part", "senseless", "size_of"]


def number_of(config: ModelConfig, name: str, default: float | None = None) -> float:
    """Return the positive number `name`; `default` where it is absent or null (None: it must be there)."""
    value: Any = config.raw.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise senseless(name, value, "a positive number")
    return float(value)


def size_of(config: ModelConfig, name: str) -> int:
    """Return the positive whole number `name`."""
    value: Any = config.raw.get(name)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise senseless(name, value, "a positive whole number")
    return value


def dense_layers(config: ModelConfig) -> int:
    """Return first_k_dense_replace: how many layers of a mixture of experts come first, without experts."""
    value = config.raw.get("first_k_dense_replace")
    if type(value) is not int or not 0 <= value <= config.layers:
        raise senseless("first_k_dense_replace", value, f"a whole number up to {config.layers}")
    return value


def rotated_part(config: ModelConfig, default: float) -> float:
    """Return partial_rotary_factor, the part of a head that is rotated, wherever transformers keeps it."""
    rope = config.raw.get("rope_parameters")
    inner: Any = rope.get("partial_rotary_factor") if isinstance(rope, dict) else None
    value = config.raw.get("partial_rotary_factor") if inner is None else inner
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise senseless("partial_rotary_factor", value, "a number up to 1")
    return float(value)


def senseless(name: str, value: object, wanted: str) -> ConversionError:
    """Return the error for a value that cannot be meant."""
    return ConversionError(
        f"config.json has {name} = {str(value)[:60]!r}, where {wanted} is needed.",
        hint="Copy config.json from the base model.",
    )
