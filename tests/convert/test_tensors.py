"""Which tensor becomes which, and the refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chat_templates.stops import Stops
from checkpoint import Checkpoint, CheckpointFlaw
from convert import ConversionPlan, plan_conversion
from convert.rows import interleaved
from errors import ConversionError, OutputError, UsageError
from tests.checkpoints import FAMILIES, edit_json, write_safetensors

Make = Callable[..., Path]


def _plan(directory: Path, tmp_path: Path, **more: Any) -> ConversionPlan:
    return plan_conversion(Checkpoint.open(directory), ["q8_0"], tmp_path / "out", **more)


def _names(plan: ConversionPlan) -> set[str]:
    return {tensor.name for tensor in plan.files[0].tensors}


def _rewrite(directory: Path, **changes: tuple[str, np.ndarray[Any, Any]] | None) -> None:
    """Store the weights again with some tensors replaced, added or (None) left out."""
    weights = Checkpoint.open(directory).weights
    tensors = {name: (weights.info(name).dtype, weights.raw(name).copy()) for name in weights.names}
    kept = {name: value for name, value in {**tensors, **changes}.items() if value is not None}
    write_safetensors(directory / "model.safetensors", kept)


def _vector(size: int) -> tuple[str, np.ndarray[Any, Any]]:
    return "BF16", np.zeros(size, np.uint16)


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_all_tensors_of_a_family_find_their_place(
    make_checkpoint: Make, tmp_path: Path, architecture: str, tied: bool
) -> None:
    plan = _plan(make_checkpoint(architecture=architecture, tied=tied), tmp_path)
    names = _names(plan)
    layer = {f"blk.1.{name}" for name in ("attn_norm.weight", "attn_q.weight", "attn_output.weight")}
    assert layer | {"token_embd.weight", "output_norm.weight", "blk.0.ffn_norm.weight"} <= names
    assert ("output.weight" in names) is not tied
    assert ("blk.0.attn_q.bias" in names) is (architecture == "Qwen2ForCausalLM")
    assert ("blk.0.attn_k_norm.weight" in names) is (architecture == "Qwen3ForCausalLM")


def test_heads_of_odd_length_are_refused(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint(hidden=260, heads=4, kv_heads=4, intermediate=64)
    with pytest.raises(ConversionError, match="260 rows are not 4 heads of an even length"):
        _plan(directory, tmp_path)


def test_biases_of_llama_are_reordered_like_their_rows(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint(bias=True, heads=8, kv_heads=2)
    rows = {source.name: source.rows for source in _plan(directory, tmp_path).sources}
    weights = Checkpoint.open(directory).weights
    for target, source, heads in (("attn_q", "q_proj", 8), ("attn_k", "k_proj", 2), ("attn_v", "v_proj", 0)):
        bias = weights.raw(f"model.layers.0.self_attn.{source}.bias")
        order = interleaved(len(bias), heads) if heads else np.arange(len(bias))
        assert np.array_equal(rows[f"blk.0.{target}.bias"].read(0, 1)[0], bias[order])


def test_an_unknown_architecture_is_refused_with_the_known_ones(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    directory = make_checkpoint()
    edit_json(directory / "config.json", architectures=["GPTBigCodeForCausalLM"])
    with pytest.raises(ConversionError, match="GPTBigCodeForCausalLM") as caught:
        _plan(directory, tmp_path)
    assert "Qwen3ForCausalLM" in str(caught.value)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.7.mlp.x"])
def test_unknown_tensors_are_refused_by_name(make_checkpoint: Make, tmp_path: Path, name: str) -> None:
    directory = make_checkpoint()
    _rewrite(directory, **{name: _vector(4)})
    with pytest.raises(ConversionError, match=name):
        _plan(directory, tmp_path)


def test_old_rotary_buffers_are_left_out(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint()
    _rewrite(directory, **{"model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", np.ones(4, np.float32))})
    assert len(_names(_plan(directory, tmp_path))) == 3 + 2 * 9


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("LlamaForCausalLM", "model.layers.1.mlp.up_proj.weight"),
        ("Qwen2ForCausalLM", "model.layers.0.self_attn.k_proj.bias"),
        ("Qwen3ForCausalLM", "model.layers.0.self_attn.q_norm.weight"),
        ("LlamaForCausalLM", "lm_head.weight"),
    ],
)
def test_missing_tensors_are_refused_by_name(
    make_checkpoint: Make, tmp_path: Path, architecture: str, name: str
) -> None:
    directory = make_checkpoint(architecture=architecture)
    _rewrite(directory, **{name: None})
    with pytest.raises(ConversionError, match=f"lacks the tensor {name}"):
        _plan(directory, tmp_path)


def test_many_missing_tensors_are_counted(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint(layers=2)
    edit_json(directory / "config.json", num_hidden_layers=4)
    with pytest.raises(ConversionError, match="and 15 more"):
        _plan(directory, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 300}, r"shape \(271, 256\), but config.json implies \(300, 256\) \(vocab x hidden\)"),
        ({"num_attention_heads": 2, "num_key_value_heads": 2}, r"\(128, 256\) \(q x hidden\)"),
    ],
)
def test_shapes_must_be_those_of_the_config(
    make_checkpoint: Make, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    directory = make_checkpoint()
    edit_json(directory / "config.json", **change, head_dim=64)
    with pytest.raises(ConversionError, match=message):
        _plan(directory, tmp_path)


def test_quantized_storage_is_refused(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint()
    name = "model.layers.0.mlp.up_proj.weight"
    _rewrite(directory, **{name: ("F8_E4M3", np.zeros((512, 256), np.uint8))})
    with pytest.raises(CheckpointFlaw, match=f"{name} is stored as F8_E4M3 without a scale"):
        _plan(directory, tmp_path)


def test_a_quantized_checkpoint_is_refused(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint()
    edit_json(directory / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ConversionError, match=r"quantized by bitsandbytes \(quantization_config\)"):
        _plan(directory, tmp_path)


def test_a_head_that_equals_its_tied_embedding_is_left_out(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint(tied=True)
    embedding = Checkpoint.open(directory).weights.raw("model.embed_tokens.weight").copy()
    _rewrite(directory, **{"lm_head.weight": ("BF16", embedding)})
    assert "output.weight" in _names(_plan(directory, tmp_path))
    repaired = _plan(directory, tmp_path, stops=Stops(ids=(270,)))
    assert "output.weight" not in _names(repaired)
    assert not repaired.findings


def test_a_head_that_differs_from_its_tied_embedding_is_kept_and_reported(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    directory = make_checkpoint()
    edit_json(directory / "config.json", tie_word_embeddings=True)
    plan = _plan(directory, tmp_path, stops=Stops(ids=(270,)))
    assert "output.weight" in _names(plan)
    assert [finding.code for finding in plan.findings] == ["tied-head-differs"]


def test_the_checkpoint_is_never_written_to(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    with pytest.raises(OutputError, match="is the checkpoint itself"):
        plan_conversion(Checkpoint.open(directory), ["q8_0"], directory / ".")


def test_a_file_is_no_output_directory(make_checkpoint: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="not a directory"):
        plan_conversion(Checkpoint.open(make_checkpoint()), ["q8_0"], tmp_path / "file")


def test_no_type_is_a_usage_error(make_checkpoint: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No GGUF type"):
        plan_conversion(Checkpoint.open(make_checkpoint()), [], tmp_path)


@pytest.mark.parametrize("name", ["a/b", "../../x", "c:\\d", "...", "\n"])
def test_a_name_cannot_leave_the_directory(make_checkpoint: Make, tmp_path: Path, name: str) -> None:
    plan = _plan(make_checkpoint(), tmp_path, name=name)
    assert plan.files[0].path.parent == tmp_path / "out"
    assert plan.name == name
