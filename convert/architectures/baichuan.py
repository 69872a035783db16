"""Baichuan and Baichuan 2: GGUF's `baichuan`. q, k and v lie one above the other in one tensor, W_pack.

llama.cpp tells the two sizes apart by the number of layers: 32 rotate (RoPE), 40 add a bias for the distance
(ALiBi), and with any other number it stops. Baichuan 2 divides every row of its head by the row's length
before it is used. llama.cpp does not, so the head is written divided. (The stock converter writes it as it
is stored, and the file then answers with other probabilities than the model.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from checkpoint import DerivedRows, ModelConfig, Rows
from convert.architectures.base import Family, Make, TensorRule, common_fields, layer_rules
from convert.fields import Field, string, uint32
from convert.rows import interleaved, taken, to_float32
from errors import ConversionError

__all__ = ["BAICHUAN"]

_LAYERS = (32, 40)
_VOCABULARY_OF_2 = 125696
_SHORTEST = np.float32(1e-7)


def _fields(config: ModelConfig) -> tuple[Field, ...]:
    if config.layers not in _LAYERS:
        raise ConversionError(
            f"config.json says {config.layers} layers; llama.cpp runs Baichuan models of 32 layers (7B, with "
            "RoPE) and of 40 (13B, with ALiBi) only.",
            hint="Serve this model with vLLM.",
        )
    if config.kv_heads != config.heads or config.heads * config.head_dim != config.hidden_size:
        raise ConversionError(
            f"config.json says {config.heads} heads of {config.head_dim} and {config.kv_heads} key-value "
            f"heads for a hidden size of {config.hidden_size}; a Baichuan's heads all have keys of their own "
            "and fill the hidden size.",
            hint="Compare config.json with the base model's.",
        )
    return (
        *common_fields("baichuan", config, head_dim=config.raw.get("head_dim") is not None),
        string("baichuan.tensor_data_layout", "Meta AI original pth"),
        uint32("baichuan.rope.dimension_count", config.head_dim),
    )


def _cut(part: int) -> Make:
    """Return what takes q (0), k (1) or v (2) out of W_pack."""

    def make(rows: Sequence[Rows], config: ModelConfig) -> Rows:
        size = config.hidden_size
        order = np.arange(size) if part == 2 else interleaved(size, config.heads)
        return taken(rows[0], part * size + order)

    return make


def _head(rows: Sequence[Rows], config: ModelConfig) -> Rows:
    divides = "z_loss_weight" in config.raw or config.vocab_size == _VOCABULARY_OF_2
    return _Normalized(rows[0]) if divides else rows[0]


@dataclass(frozen=True, eq=False)
class _Normalized(DerivedRows):
    """Rows in float32, each divided by its length."""

    @property
    def dtype(self) -> str:
        return "F32"

    def read(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        values = to_float32(self.rows.read(start, stop), self.rows.dtype)
        lengths = np.sqrt(np.sum(np.square(values), axis=1, keepdims=True))
        divided: np.ndarray[Any, Any] = values / np.maximum(lengths, _SHORTEST)
        return divided


def _rules() -> tuple[TensorRule, ...]:
    others = ("attn_q.", "attn_k.", "attn_v.", "output.weight")
    shared = [rule for rule in layer_rules() if not rule.target.removeprefix("blk.{}.").startswith(others)]
    fused = "model.layers.{}.self_attn.W_pack.weight"
    return (
        *shared,
        *(
            TensorRule(fused, f"blk.{{}}.attn_{name}.weight", ("qkv", "hidden"), make=_cut(part))
            for part, name in enumerate("qkv")
        ),
        TensorRule("lm_head.weight", "output.weight", ("vocab", "hidden"), required=False, make=_head),
    )


BAICHUAN = Family(
    name="baichuan",
    architectures=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    rules=_rules(),
    fields=_fields,
    sizes=lambda config: {"qkv": 3 * config.hidden_size},
)
