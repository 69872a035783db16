"""The recipe against tables read off llama.cpp's quantizer (the engine tests compare with it live)."""

from __future__ import annotations

import pytest

from convert.recipe import ModelShape, tensor_type_for
from convert.types import TYPES

LAYERS = 16
SMALL = ModelShape("llama", LAYERS, heads=8, kv_heads=4, tied=False)
SHARING = ModelShape("llama", LAYERS, heads=8, kv_heads=2, tied=True)
MORE_BITS = {0, 1, 4, 7, 10, 13, 14, 15}
"""Of 16 layers: the first and the last eighth, and every third between."""

GOLDEN = {
    # file type: (output, token_embd, attn_q, attn_output, ffn_up)
    "q8_0": ("Q8_0", "Q8_0", "Q8_0", "Q8_0", "Q8_0"),
    "q6_k": ("Q6_K", "Q6_K", "Q6_K", "Q6_K", "Q6_K"),
    "q5_k_m": ("Q6_K", "Q5_K", "Q5_K", "Q5_K", "Q5_K"),
    "q5_k_s": ("Q6_K", "Q5_K", "Q5_K", "Q5_K", "Q5_K"),
    "q4_k_m": ("Q6_K", "Q4_K", "Q4_K", "Q4_K", "Q4_K"),
    "q4_k_s": ("Q6_K", "Q4_K", "Q4_K", "Q4_K", "Q4_K"),
    "q3_k_l": ("Q6_K", "Q3_K", "Q3_K", "Q5_K", "Q3_K"),
    "q3_k_m": ("Q6_K", "Q3_K", "Q3_K", "Q4_K", "Q3_K"),
    "q3_k_s": ("Q6_K", "Q3_K", "Q3_K", "Q3_K", "Q3_K"),
    "q2_k": ("Q6_K", "Q2_K", "Q2_K", "Q3_K", "Q2_K"),
    "q5_0": ("Q6_K", "Q5_0", "Q5_0", "Q5_0", "Q5_0"),
    "q5_1": ("Q6_K", "Q5_1", "Q5_1", "Q5_1", "Q5_1"),
    "q4_0": ("Q6_K", "Q4_0", "Q4_0", "Q4_0", "Q4_0"),
    "q4_1": ("Q6_K", "Q4_1", "Q4_1", "Q4_1", "Q4_1"),
    "f32": ("F32", "F32", "F32", "F32", "F32"),
    "f16": ("F16", "F16", "F16", "F16", "F16"),
    "bf16": ("BF16", "BF16", "BF16", "BF16", "BF16"),
}
_NAMES = ("output", "token_embd", "blk.3.attn_q", "blk.3.attn_output", "blk.3.ffn_up")


def _type(name: str, file_type: str, model: ModelShape = SMALL, row: int = 512) -> str:
    return tensor_type_for(f"{name}.weight", 2, row, file_type, model).name


def test_every_file_type_is_in_the_table() -> None:
    assert set(GOLDEN) == set(TYPES)


@pytest.mark.parametrize("file_type", TYPES)
def test_matrices(file_type: str) -> None:
    assert tuple(_type(name, file_type) for name in _NAMES) == GOLDEN[file_type]


@pytest.mark.parametrize("file_type", TYPES)
def test_vectors_and_norms_stay_f32(file_type: str) -> None:
    for name in ("blk.0.attn_q.bias", "output_norm.weight", "rope_freqs.weight"):
        assert tensor_type_for(name, 1, 512, file_type, SMALL).name == "F32"
    assert tensor_type_for("blk.0.attn_q_norm.weight", 2, 512, file_type, SMALL).name == "F32"


@pytest.mark.parametrize(("file_type", "base"), [("q4_k_m", "Q4_K"), ("q5_k_m", "Q5_K")])
@pytest.mark.parametrize("name", ["attn_v", "ffn_down"])
def test_medium_mixtures_give_some_layers_more(file_type: str, base: str, name: str) -> None:
    found = [_type(f"blk.{layer}.{name}", file_type) for layer in range(LAYERS)]
    assert found == ["Q6_K" if layer in MORE_BITS else base for layer in range(LAYERS)]


def test_attention_value_by_layer() -> None:
    def found(file_type: str, model: ModelShape = SMALL) -> list[str]:
        return [_type(f"blk.{layer}.attn_v", file_type, model) for layer in range(6)]

    assert found("q3_k_m") == ["Q5_K"] * 2 + ["Q4_K"] * 4
    assert found("q3_k_l") == ["Q5_K"] * 6
    assert found("q4_k_s") == ["Q5_K"] * 4 + ["Q4_K"] * 2
    assert found("q2_k") == ["Q3_K"] * 6
    assert found("q2_k", SHARING) == ["Q4_K"] * 6


def test_feed_forward_down_by_layer() -> None:
    def found(file_type: str) -> list[str]:
        return [_type(f"blk.{layer}.ffn_down", file_type) for layer in range(4)]

    assert found("q3_k_m") == ["Q5_K", "Q4_K", "Q4_K", "Q4_K"]
    assert found("q3_k_l") == ["Q5_K"] * 4
    assert found("q4_k_s") == ["Q5_K", "Q5_K", "Q4_K", "Q4_K"]
    assert found("q2_k") == ["Q3_K"] * 4


@pytest.mark.parametrize(
    ("architecture", "heads", "expected"),
    [("llama", 2, "Q5_K"), ("llama", 8, "Q4_K"), ("qwen2", 8, "Q5_K"), ("qwen3", 2, "Q4_K")],
)
def test_models_of_80_layers(architecture: str, heads: int, expected: str) -> None:
    model = ModelShape(architecture, 80, heads=8, kv_heads=heads, tied=False)
    assert _type("blk.40.attn_v", "q3_k_m", model) == expected


def test_a_tied_embedding_does_the_work_of_the_head() -> None:
    assert _type("token_embd", "q4_k_m", SHARING) == "Q6_K"
    assert _type("token_embd", "q4_k_m") == "Q4_K"


@pytest.mark.parametrize(
    ("file_type", "row", "expected"),
    [
        ("q2_k", 576, "Q4_0"),
        ("q3_k_s", 576, "Q4_0"),
        ("q4_k_m", 576, "Q5_0"),
        ("q5_k_m", 576, "Q5_1"),
        ("q6_k", 576, "Q8_0"),
        ("q4_0", 576, "Q4_0"),
        ("q4_k_m", 520, "F16"),
        ("q8_0", 520, "F16"),
        ("q4_1", 520, "F16"),
    ],
)
def test_rows_that_are_not_whole_blocks(file_type: str, row: int, expected: str) -> None:
    assert _type("blk.3.ffn_up", file_type, row=row) == expected


@pytest.mark.parametrize("file_type", ["q4_k_m", "q4_0", "q2_k", "q8_0"])
def test_an_odd_head_becomes_q8_0_or_f16(file_type: str) -> None:
    assert _type("output", file_type, row=576) == "Q8_0"
    assert _type("output", file_type, row=520) == "F16"
