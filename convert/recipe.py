"""Which type each tensor of a file gets: llama.cpp's rule, written down as this project reads it.

The source of the facts is `llama_tensor_get_type_impl` and `tensor_type_fallback` of llama.cpp's
src/llama-quant.cpp; the tests compare the outcome with llama.cpp itself. Does not know checkpoints: a tensor
is a GGUF name, a number of dimensions and a row length here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from convert.choices import MIXTURE, TypeChoices
from convert.types import FILE_TYPES, TensorType, tensor_type

__all__ = ["ModelShape", "is_quantizable", "tensor_types"]

_LAYER = re.compile(r"blk\.(\d+)\.")

# These too hold the values that attention mixes, fused with others, and are as sensitive.
_LIKE_ATTENTION_VALUE = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")

_NEVER = ("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")
"""Norms, and the routers of a mixture of experts."""
_EIGHT_EXPERTS_OUTPUT = {"q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m"}

# A row that is not whole blocks of 256 falls back to a type with blocks of 32.
_SMALLER_BLOCK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


@dataclass(frozen=True)
class ModelShape:
    """The facts of a model that the rule looks at."""

    architecture: str
    """GGUF's name: "llama", "qwen2", "qwen3"."""
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    """No output.weight is written, so token_embd.weight does its work."""
    experts: int = 0
    """In each layer; 0 for a dense model."""

    @property
    def shared_heads(self) -> int:
        """How many query heads share one key-value head."""
        return self.heads // self.kv_heads

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp takes the model for a 70B one, whose attn_v it treats better."""
        if self.architecture == "llama":
            return self.layers == 80 and self.heads != self.kv_heads
        return self.architecture == "qwen2" and self.layers == 80


def is_quantizable(name: str, dimensions: int) -> bool:
    """Whether a tensor is ever stored in a file's own type: matrices are, vectors and norms stay F32."""
    return dimensions >= 2 and name.endswith("weight") and not name.endswith(_NEVER)


def tensor_types(
    tensors: Iterable[tuple[str, int, int]],
    file_type: str,
    model: ModelShape,
    choices: TypeChoices = MIXTURE,
) -> dict[str, TensorType]:
    """Return the type of each tensor of a file of type `file_type`, by name.

    `tensors` are (name, dimensions, elements of a row), all of the file's: which layers of a mixture deserve
    more is told by counting, and a tensor that was given its type otherwise is not counted.
    """
    base = tensor_type(FILE_TYPES[file_type].base)
    ordered = sorted(tensors, key=lambda tensor: _llamacpp_order(tensor[0]))
    mixture = _Mixture(base, file_type, model, choices.weighted, [name for name, *_ in ordered])
    found = {}
    for name, dimensions, row in ordered:
        if not is_quantizable(name, dimensions):
            found[name] = tensor_type("F32")
        elif not base.quantized:
            found[name] = base
        else:
            wanted = choices.override_for(name)
            if wanted is None:
                wanted = base if choices.pure else mixture.wanted(name, row)
            found[name] = _that_fits(wanted, row)
    return found


def _llamacpp_order(name: str) -> tuple[int, bytes]:
    """The order in which llama.cpp walks over the tensors: `weight_name_comparer`."""
    found = _LAYER.match(name)
    return int(found[1]) if found else -1, name.encode()


def _that_fits(wanted: TensorType, row: int) -> TensorType:
    if wanted.fits(row):
        return wanted
    smaller = tensor_type(_SMALLER_BLOCK.get(wanted.name, wanted.name))
    return smaller if smaller.fits(row) else tensor_type("F16")


class _Mixture:
    """The types that the tensors of a file are wanted in before the row length is looked at.

    To be asked in llama.cpp's order, for it counts what it has met.
    """

    def __init__(
        self, base: TensorType, file_type: str, model: ModelShape, weighted: bool, names: list[str]
    ) -> None:
        self._base = base
        self._file_type = file_type
        self._model = model
        self._weighted = weighted
        self._values = sum(_is_like_attention_value(name) for name in names)
        self._met: Counter[str] = Counter()

    def wanted(self, name: str, row: int) -> TensorType:
        """Return the type for tensor `name`."""
        return tensor_type(self._preferred(name, row))

    def _preferred(self, name: str, row: int) -> str:
        base, file_type, model = self._base.name, self._file_type, self._model
        if name == "output.weight" or (name == "token_embd.weight" and model.tied):
            return "Q8_0" if base == "Q8_0" or not self._base.fits(row) else "Q6_K"
        if _is_like_attention_value(name):
            return _attention_value(base, file_type, self._count("attention value"), self._values, model)
        if "ffn_down" in name:
            layer = self._count("ffn_down")
            if model.experts > 1:  # where experts are tensors of their own, counting them tells no layer
                layer = _llamacpp_order(name)[0]
            return _feed_forward_down(base, file_type, layer, model.layers, self._weighted)
        if model.experts == 8 and (wanted := _beside_eight_experts(name, base, file_type)):
            return wanted
        if "attn_output.weight" in name:
            return {"q2_k": "Q3_K", "q3_k_m": "Q4_K", "q3_k_l": "Q5_K"}.get(file_type, base)
        return base

    def _count(self, what: str) -> int:
        """Return how many of them came before."""
        self._met[what] += 1
        return self._met[what] - 1


def _is_like_attention_value(name: str) -> bool:
    return name.endswith(_LIKE_ATTENTION_VALUE)


def _beside_eight_experts(name: str, base: str, file_type: str) -> str | None:
    """Return the type of attention's tensors, a small part of such a model; None for others."""
    if name.endswith("attn_k.weight"):
        return "Q8_0"
    if "attn_output.weight" in name:
        return "Q5_K" if file_type in _EIGHT_EXPERTS_OUTPUT else base
    return None


def _attention_value(base: str, file_type: str, layer: int, layers: int, model: ModelShape) -> str:
    wanted = base
    if model.experts == 8:
        return "Q8_0"
    if file_type == "q2_k":
        wanted = "Q4_K" if model.shared_heads >= 4 else "Q3_K"
    elif file_type == "q3_k_m":
        wanted = "Q5_K" if layer < 2 else "Q4_K"
    elif file_type == "q3_k_l" or (file_type == "q4_k_s" and layer < 4):
        wanted = "Q5_K"
    elif file_type in {"q4_k_m", "q5_k_m"} and _deserves_more(layer, layers):
        wanted = "Q6_K"
    return "Q5_K" if model.is_70b and wanted in {"Q3_K", "Q4_K"} else wanted


def _feed_forward_down(base: str, file_type: str, layer: int, layers: int, weighted: bool) -> str:
    if weighted and file_type in {"q4_0", "q5_0"}:
        return base.replace("_0", "_1") if layer < layers // 8 else base
    if file_type == "q2_k":
        return "Q3_K"
    if file_type == "q3_k_m":
        return "Q5_K" if layer < layers // 16 else "Q4_K"
    if file_type == "q3_k_l" or (file_type == "q4_k_s" and layer < layers // 8):
        return "Q5_K"
    if file_type in {"q4_k_m", "q5_k_m"} and _deserves_more(layer, layers):
        return "Q6_K"
    return base


def _deserves_more(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
