"""Hyper-parameters and the description of the model, as GGUF keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chat_templates.sources.source import TemplateSource
from chat_templates.stops import Stops
from checkpoint import Checkpoint
from convert import ConversionPlan, plan_conversion
from convert.metadata import chat_template_fields
from errors import ConversionError
from tests.checkpoints import CHATML, edit_json

Make = Callable[..., Path]


def _plan(directory: Path, **more: Any) -> ConversionPlan:
    return plan_conversion(Checkpoint.open(directory), ["q4_k_m"], directory.parent / "out", **more)


def _fields(directory: Path, **more: Any) -> dict[str, Any]:
    return {field.key: field.value for field in _plan(directory, **more).files[0].fields}


def test_hyper_parameters(make_checkpoint: Make) -> None:
    fields = _fields(make_checkpoint(heads=8, kv_heads=2, layers=3))
    expected = {
        "general.architecture": "llama",
        "general.file_type": 15,
        "general.quantization_version": 2,
        "llama.block_count": 3,
        "llama.context_length": 2048,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 512,
        "llama.attention.head_count": 8,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 32,
        "llama.attention.value_length": 32,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": 32,
        "llama.vocab_size": 271,
    }
    assert expected.items() <= fields.items()


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({"type": "linear", "factor": 2}, {"type": "linear", "factor": 2.0}),
        ({"rope_type": "dynamic", "factor": 2.0}, {}),
        ({"rope_type": "default"}, {}),
        (
            {"rope_type": "yarn", "factor": 4.0, "beta_slow": 1, "attention_factor": 1.1386294},
            {
                "type": "yarn",
                "factor": 4.0,
                "original_context_length": 2048,
                "yarn_beta_slow": 1.0,
                "yarn_attn_factor": pytest.approx(1.1386294),
            },
        ),
    ],
)
def test_rope_scaling(make_checkpoint: Make, scaling: dict[str, Any], expected: dict[str, Any]) -> None:
    fields = _fields(make_checkpoint(architecture="Qwen2ForCausalLM", config={"rope_scaling": scaling}))
    prefix = "qwen2.rope.scaling."
    assert {key.removeprefix(prefix): fields[key] for key in fields if key.startswith(prefix)} == expected


def test_transformers_5_spells_rope_otherwise(make_checkpoint: Make) -> None:
    rope = {"rope_type": "linear", "factor": 3.0, "rope_theta": 5000.0}
    fields = _fields(make_checkpoint(config={"rope_parameters": rope, "rope_theta": None}))
    assert (fields["llama.rope.scaling.factor"], fields["llama.rope.freq_base"]) == (3.0, 5000.0)


@pytest.mark.parametrize(
    ("architecture", "scaling"),
    [
        ("Qwen2ForCausalLM", {"rope_type": "llama3", "factor": 8.0}),
        ("LlamaForCausalLM", {"rope_type": "longrope", "factor": 8.0}),
        ("Qwen3ForCausalLM", {"rope_type": "made-up"}),
    ],
)
def test_rope_scalings_that_llamacpp_lacks_are_refused(
    make_checkpoint: Make, architecture: str, scaling: dict[str, Any]
) -> None:
    directory = make_checkpoint(architecture=architecture, config={"rope_scaling": scaling})
    with pytest.raises(ConversionError, match=f"RoPE scaling '{scaling['rope_type']}'"):
        _plan(directory)


@pytest.mark.parametrize(
    "other", [{"beta_fast": 24}, {"beta_slow": 2.0}, {"attention_factor": 0.5}, {"extrapolation_factor": 0.5}]
)
def test_yarn_that_llamacpp_computes_otherwise_is_refused(
    make_checkpoint: Make, other: dict[str, Any]
) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, **other}
    with pytest.raises(ConversionError, match=f"YaRN with {next(iter(other))}"):
        _plan(make_checkpoint(config={"rope_scaling": scaling}))


@pytest.mark.parametrize("bad", [{"factor": "eight"}, {"factor": 8.0, "low_freq_factor": 0}])
def test_senseless_scalings_are_refused(make_checkpoint: Make, bad: dict[str, Any]) -> None:
    directory = make_checkpoint(config={"rope_scaling": {"rope_type": "llama3", **bad}})
    with pytest.raises(ConversionError, match="makes no sense"):
        _plan(directory)


def test_llama3_factors(make_checkpoint: Make) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    original = {"original_max_position_embeddings": 512}
    plan = _plan(make_checkpoint(config={"rope_scaling": scaling | original}))
    (frequencies,) = (source for source in plan.sources if source.name == "rope_freqs.weight")
    factors = frequencies.rows.read(0, 1)[0]
    assert len(factors) == 32
    assert factors[0] == 1.0
    assert factors[-1] == 8.0
    assert list(factors) == sorted(factors)
    assert any(1.0 < value < 8.0 for value in factors)


@pytest.mark.parametrize(
    ("architecture", "config", "found"),
    [
        ("MistralForCausalLM", {"sliding_window": 512}, True),
        ("MistralForCausalLM", {"sliding_window": 4096}, False),
        ("MistralForCausalLM", {"sliding_window": None}, False),
        ("Qwen2ForCausalLM", {"sliding_window": 512, "use_sliding_window": False}, False),
        ("Qwen3ForCausalLM", {"sliding_window": 512, "use_sliding_window": True}, True),
    ],
)
def test_a_window_is_reported(
    make_checkpoint: Make, architecture: str, config: dict[str, Any], found: bool
) -> None:
    plan = _plan(make_checkpoint(architecture=architecture, config=config))
    assert ("sliding-window-ignored" in {finding.code for finding in plan.findings}) is found


def test_qwen2_heads_must_fill_the_hidden_size(make_checkpoint: Make) -> None:
    directory = make_checkpoint(architecture="Qwen2ForCausalLM", config={"head_dim": 32})
    with pytest.raises(ConversionError, match="4 heads of 32 for a hidden size of 256"):
        _plan(directory)


def test_the_model_card_describes(make_checkpoint: Make) -> None:
    directory = make_checkpoint("Tiny-Chat-2M")
    card = (
        "---\nlicense: apache-2.0\nlanguage:\n- en\n- no\ntags: [chat]\nbase_model: org/Base-2M\n---\n# x\n"
    )
    (directory / "README.md").write_text(card, encoding="utf-8")
    edit_json(directory / "generation_config.json", temperature=0.6, top_k=20, repetition_penalty=1.1)
    fields = _fields(directory)
    assert fields["general.license"] == "apache-2.0"
    assert fields["general.languages"] == ("en", "no")
    assert fields["general.tags"] == ("chat",)
    assert fields["general.base_model.0.name"] == "Base 2M"
    assert fields["general.sampling.temp"] == 0.6
    assert fields["general.sampling.penalty_repeat"] == 1.1
    assert fields["general.name"] == "Tiny Chat 2M"
    assert _fields(directory, name="My Model")["general.name"] == "My Model"


@pytest.mark.parametrize(
    "card",
    [
        "---\n{unclosed: [\n---\n",
        "---\nlicense: {a: 1}\nversion: 1.5\nbase_model: 7\ntags: {x: y}\ndatasets: [[1]]\nname: [a]\n---\n",
        "---\n- a\n- b\n---\n",
        "---\nbase_model: !!python/object/apply:os.system ['false']\n---\n",
    ],
)
def test_a_strange_model_card_does_no_harm(make_checkpoint: Make, card: str) -> None:
    directory = make_checkpoint()
    (directory / "README.md").write_text(card, encoding="utf-8")
    plan = _plan(directory)
    assert plan.bytes > 0
    json.dumps(plan.as_json())


@pytest.mark.parametrize("value", ["hot", [1], True, 1e300, None, {}])
def test_strange_sampling_values_do_no_harm(make_checkpoint: Make, value: Any) -> None:
    directory = make_checkpoint()
    edit_json(directory / "generation_config.json", temperature=value, top_k=value)
    fields = _fields(directory)
    assert "general.sampling.temp" not in fields
    assert _plan(directory).bytes > 0


def test_the_template_source_is_written(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    assert _fields(directory)["tokenizer.chat_template"] == CHATML
    source = TemplateSource("x.jinja", "a file", "jinja", "{{ other }}", None)
    fields = _fields(directory, source=source, stops=Stops(ids=(270,)))
    assert fields["tokenizer.chat_template"] == "{{ other }}"


@pytest.mark.parametrize(
    ("template", "adds"),
    [
        ("{{ bos_token }}{{ messages[0]['content'] }}", True),
        ("<|im_start|>{{ messages[0]['content'] }}", True),
        ("{{ messages[0]['content'] }}", False),
        ("{{ raise_exception('no') }}", True),
    ],
)
def test_bos_is_added_only_where_the_template_has_it(
    make_checkpoint: Make, template: str, adds: bool
) -> None:
    directory = make_checkpoint()
    edit_json(directory / "tokenizer_config.json", add_bos_token=True)
    source = TemplateSource("x", "x", "jinja", template, None, bos_token="<|im_start|>")
    plan = _plan(directory, source=source, stops=Stops(ids=(270,)))
    fields = {field.key: field.value for field in plan.files[0].fields}
    assert fields["tokenizer.ggml.add_bos_token"] is adds
    assert ("bos-left-out" in {finding.code for finding in plan.findings}) is not adds


def test_the_stock_converter_prefers_the_other_template(make_checkpoint: Make) -> None:
    """As is: tokenizer_config.json's wins over the file, the other way round than in transformers."""
    directory = make_checkpoint()
    edit_json(directory / "tokenizer_config.json", chat_template="{{ in_config }}")
    assert _fields(directory)["tokenizer.chat_template"] == "{{ in_config }}"


def test_named_templates() -> None:
    listed = [{"name": "default", "template": "D"}, {"name": "tool use", "template": "T"}, {"name": "x"}]
    fields = {field.key: field.value for field in chat_template_fields(listed)}
    assert fields == {
        "tokenizer.chat_template": "D",
        "tokenizer.chat_templates": ("tool_use",),
        "tokenizer.chat_template.tool_use": "T",
    }
    assert chat_template_fields(None) == chat_template_fields({"a": 1}) == ()
