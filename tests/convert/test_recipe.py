"""The recipe against tables read off llama.cpp's quantizer (the engine tests compare with it live)."""

from __future__ import annotations

import re

import pytest

from convert.choices import MIXTURE, TypeChoices, read_overrides
from convert.recipe import ModelShape, tensor_types
from convert.types import TYPES
from errors import UsageError

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


def _types(
    name: str,
    file_type: str,
    model: ModelShape = SMALL,
    row: int = 512,
    choices: TypeChoices = MIXTURE,
) -> list[str]:
    """The types of a tensor in all layers; `name` holds the number of any layer or none."""
    if not name.startswith("blk."):
        return [tensor_types([(f"{name}.weight", 2, row)], file_type, model, choices)[f"{name}.weight"].name]
    part = name.split(".")[2]
    names = [f"blk.{layer}.{part}.weight" for layer in range(model.layers)]
    # In the order of no file: it is llama.cpp's order that counts.
    found = tensor_types([(each, 2, row) for each in reversed(names)], file_type, model, choices)
    return [found[each].name for each in names]


def _type(name: str, file_type: str, model: ModelShape = SMALL, row: int = 512) -> str:
    return _types(name, file_type, model, row)[int(name.split(".")[1]) if name.startswith("blk.") else 0]


def test_every_file_type_is_in_the_table() -> None:
    assert set(GOLDEN) == set(TYPES)


@pytest.mark.parametrize("file_type", TYPES)
def test_matrices(file_type: str) -> None:
    assert tuple(_type(name, file_type) for name in _NAMES) == GOLDEN[file_type]


@pytest.mark.parametrize("file_type", TYPES)
def test_vectors_and_norms_stay_f32(file_type: str) -> None:
    for name in ("blk.0.attn_q.bias", "output_norm.weight", "rope_freqs.weight"):
        assert tensor_types([(name, 1, 512)], file_type, SMALL)[name].name == "F32"
    assert _type("blk.0.attn_q_norm", file_type) == "F32"


@pytest.mark.parametrize(("file_type", "base"), [("q4_k_m", "Q4_K"), ("q5_k_m", "Q5_K")])
@pytest.mark.parametrize("name", ["attn_v", "ffn_down"])
def test_medium_mixtures_give_some_layers_more(file_type: str, base: str, name: str) -> None:
    found = _types(f"blk.0.{name}", file_type)
    assert found == ["Q6_K" if layer in MORE_BITS else base for layer in range(LAYERS)]


def test_attention_value_by_layer() -> None:
    def found(file_type: str, model: ModelShape = SMALL) -> list[str]:
        return _types("blk.0.attn_v", file_type, model)[:6]

    assert found("q3_k_m") == ["Q5_K"] * 2 + ["Q4_K"] * 4
    assert found("q3_k_l") == ["Q5_K"] * 6
    assert found("q4_k_s") == ["Q5_K"] * 4 + ["Q4_K"] * 2
    assert found("q2_k") == ["Q3_K"] * 6
    assert found("q2_k", SHARING) == ["Q4_K"] * 6


def test_feed_forward_down_by_layer() -> None:
    def found(file_type: str) -> list[str]:
        return _types("blk.0.ffn_down", file_type)[:4]

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


def test_the_first_pattern_found_counts_and_what_it_takes_is_not_counted() -> None:
    choices = TypeChoices(read_overrides([r"BLK\.[01]\.attn_v=q8_0", "attn_v=Q5_0", "ffn_(up|gate)=f16"]))
    assert _types("blk.0.attn_v", "q4_k_m", choices=choices) == ["Q8_0"] * 2 + ["Q5_0"] * 14
    assert set(_types("blk.0.ffn_up", "q4_k_m", choices=choices)) == {"F16"}
    assert set(_types("blk.0.ffn_up", "bf16", choices=choices)) == {"BF16"}
    two = TypeChoices(read_overrides([r"blk\.[01]\.attn_v=q8_0"]))
    # The third layer is the first one met, so it is one of "the first two".
    assert _types("blk.0.attn_v", "q3_k_m", choices=two)[:6] == [
        "Q8_0",
        "Q8_0",
        "Q5_K",
        "Q5_K",
        "Q4_K",
        "Q4_K",
    ]


def test_pure_files_have_no_mixture_but_rows_must_fit() -> None:
    pure = TypeChoices(pure=True)
    assert _types("output", "q4_k_m", choices=pure) == ["Q4_K"]
    assert set(_types("blk.0.ffn_down", "q4_k_m", choices=pure)) == {"Q4_K"}
    assert _types("output", "q4_k_m", row=576, choices=pure) == ["Q5_0"]
    assert _types("output", "q8_0", row=520, choices=TypeChoices(read_overrides(["output=q6_k"]))) == ["F16"]


@pytest.mark.parametrize(("file_type", "first"), [("q4_0", "Q4_1"), ("q5_0", "Q5_1"), ("q4_1", "Q4_1")])
def test_an_importance_matrix_changes_the_first_eighth(file_type: str, first: str) -> None:
    found = _types("blk.0.ffn_down", file_type, choices=TypeChoices(weighted=True))
    assert found == [first] * 2 + [file_type.upper()] * 14


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("attn_v", "PATTERN=TYPE"),
        ("=q8_0", "PATTERN=TYPE"),
        ("attn_v=", "PATTERN=TYPE"),
        ("attn_v=q4_k_m", "q4_k"),
        ("attn_(v=q8_0", "no regular expression"),
        ("(?i)attn=q8_0", "llama.cpp"),
    ],
)
def test_bad_overrides_are_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        read_overrides([text])


def test_a_pattern_that_decides_nothing_is_told() -> None:
    choices = TypeChoices(read_overrides(["attn_v=q8_0", "blk.0.attn_v=q6_k", "attn_z=q4_0"]))
    told = choices.unused(["blk.0.attn_v.weight", "blk.0.attn_q.weight"])
    assert [finding.message.split()[1] for finding in told] == ["blk.0.attn_v=q6_k", "attn_z=q4_0"]
