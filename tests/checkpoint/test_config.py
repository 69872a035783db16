"""config.json and generation_config.json in the spellings of transformers 4 and 5 and of several families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from checkpoint import CheckpointFlaw, GenerationConfig, ModelConfig

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}
PATH = Path("config.json")


def _parse(**changes: Any) -> ModelConfig:
    return ModelConfig.parse({**BASE, **changes}, PATH)


def test_what_is_absent_has_the_value_the_field_takes() -> None:
    config = _parse()
    assert (config.kv_heads, config.head_dim, config.tie_word_embeddings) == (4, 16, False)
    assert (config.rms_norm_eps, config.rope_theta, config.rope_scaling, config.sliding_window) == (None,) * 4
    assert (config.dtype, config.eos_token_ids, config.bos_token_id, config.quantization) == (
        "float32",
        (),
        None,
        None,
    )


def test_transformers_4_and_5_say_the_same() -> None:
    four = _parse(
        torch_dtype="bfloat16",
        rope_theta=5e5,
        rope_scaling={"type": "linear", "factor": 2.0},
        eos_token_id=[1, 2],
    )
    five = _parse(
        dtype="bfloat16",
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5},
        eos_token_id=[1, 2, 1],
    )
    for config in (four, five):
        assert config.dtype == "bfloat16"
        assert config.rope_theta == 5e5
        assert config.rope_scaling == {"rope_type": "linear", "factor": 2.0}
        assert config.eos_token_ids == (1, 2)


def test_plain_rope_is_no_scaling() -> None:
    assert _parse(rope_parameters={"rope_type": "default", "rope_theta": 1e4}).rope_scaling is None
    assert _parse(rope_scaling=None).rope_scaling is None
    mixed = _parse(rope_parameters={"full_attention": {"rope_theta": 1e6, "rope_type": "default"}})
    assert mixed.rope_theta == 1e6
    assert mixed.rope_scaling is None


def test_older_families_and_multimodal_models() -> None:
    config = ModelConfig.parse(
        {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 3}
        | {"n_positions": 1024, "vocab_size": 50257},
        PATH,
    )
    assert (config.hidden_size, config.layers, config.context_length, config.intermediate_size) == (
        64,
        3,
        1024,
        256,
    )
    assert config.tie_word_embeddings
    nested = {key: value for key, value in BASE.items() if key != "architectures"}
    outer = {"architectures": ["XForConditionalGeneration"], "model_type": "x", "text_config": nested}
    assert ModelConfig.parse(outer, PATH).hidden_size == 64


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"architectures": []}, "config-incomplete", "architectures"),
        ({"architectures": [3]}, "config-incomplete", "architectures"),
        ({"hidden_size": None}, "config-incomplete", "hidden_size"),
        ({"num_hidden_layers": "2"}, "config-damaged", "num_hidden_layers = '2'"),
        ({"num_attention_heads": 0}, "config-damaged", "num_attention_heads = 0"),
        ({"vocab_size": True}, "config-damaged", "vocab_size = True"),
        ({"vocab_size": 10**5000}, "config-damaged", "a very large number"),
        ({"hidden_size": float("inf")}, "config-damaged", "hidden_size = inf"),
        ({"rms_norm_eps": "1e-5"}, "config-damaged", "rms_norm_eps"),
        ({"rope_theta": float("nan")}, "config-damaged", "rope_theta"),
        ({"rope_theta": 10**400}, "config-damaged", "rope_theta"),
        ({"rope_scaling": [1]}, "config-damaged", "rope_scaling"),
        ({"rope_scaling": {"type": 3}}, "config-damaged", "rope_scaling"),
        ({"rope_scaling": {"type": "yarn", "factor": float("inf")}}, "config-damaged", "factor"),
        ({"tie_word_embeddings": "yes"}, "config-damaged", "tie_word_embeddings"),
        ({"torch_dtype": "int4"}, "config-damaged", "dtype"),
        ({"torch_dtype": ["bfloat16"]}, "config-damaged", "dtype"),
        ({"eos_token_id": "2"}, "config-damaged", "eos_token_id"),
        ({"eos_token_id": [2, None]}, "config-damaged", "eos_token_id"),
        ({"eos_token_id": 2.0}, "config-damaged", "eos_token_id"),
        ({"quantization_config": "awq"}, "config-damaged", "quantization_config"),
    ],
)
def test_damage_is_named(changes: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(CheckpointFlaw, match=r"config\.json") as caught:
        _parse(**changes)
    assert caught.value.code == code
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("value", "method"),
    [
        ({"quant_method": "gptq"}, "gptq"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"bnb_4bit_quant_type": "nf4"}, "bitsandbytes"),
        ({}, "unknown"),
    ],
)
def test_the_quantization_method(value: dict[str, Any], method: str) -> None:
    assert _parse(quantization_config=value).quantization == method


def test_dtype_spellings() -> None:
    assert _parse(torch_dtype="torch.float16").dtype == "float16"
    assert _parse(dtype="bf16").dtype == "bfloat16"


def test_generation_config() -> None:
    assert GenerationConfig.parse(None, PATH) == GenerationConfig({}, False, ())
    assert GenerationConfig.parse({"eos_token_id": [5, -1, 6]}, PATH).eos_token_ids == (5, 6)
    with pytest.raises(CheckpointFlaw, match="eos_token_id"):
        GenerationConfig.parse({"eos_token_id": {"a": 1}}, PATH)
