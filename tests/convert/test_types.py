from __future__ import annotations

import gguf
import pytest

from convert import TYPES, normalize_type
from convert.types import FILE_TYPES, TENSOR_TYPES
from errors import UsageError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Q8", "q8_0"),
        ("q4", "q4_k_m"),
        ("Q5", "q5_k_m"),
        ("q6", "q6_k"),
        ("Q4_K_M", "q4_k_m"),
        ("q4-k-s", "q4_k_s"),
        (" BF16 ", "bf16"),
    ],
)
def test_names_are_normalized(given: str, expected: str) -> None:
    assert normalize_type(given) == expected


def test_all_names_are_their_own_normal_form() -> None:
    assert tuple(map(normalize_type, TYPES)) == TYPES


@pytest.mark.parametrize(("given", "near"), [("q4_km", "q4_k_m"), ("fp16", "f16"), ("q9", "Known types")])
def test_an_unknown_type_is_refused_with_a_suggestion(given: str, near: str) -> None:
    with pytest.raises(UsageError, match="no GGUF type") as caught:
        normalize_type(given)
    assert near in str(caught.value)


@pytest.mark.parametrize("name", TENSOR_TYPES)
def test_tensor_types_agree_with_gguf(name: str) -> None:
    kind = TENSOR_TYPES[name]
    number = gguf.GGMLQuantizationType[name]
    assert kind.number == number
    assert (kind.block, kind.block_bytes) == gguf.GGML_QUANT_SIZES[number]


@pytest.mark.parametrize("name", TYPES)
def test_file_types_agree_with_gguf(name: str) -> None:
    wanted = "ALL_F32" if name == "f32" else f"MOSTLY_{name.upper()}"
    assert FILE_TYPES[name].number == gguf.LlamaFileType[wanted]
