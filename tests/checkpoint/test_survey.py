"""The survey: one finding for each kind of damage, none for a good checkpoint, an exception for neither."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from checkpoint import Checkpoint, Finding, survey
from tests.checkpoints import copy_sample, edit_json, write_safetensors

Make = Callable[..., Path]


def _codes(path: Path) -> Mapping[str, Finding]:
    return {finding.code: finding for finding in survey(path).findings}


def _rewrite(directory: Path, change: Callable[[dict[str, tuple[str, np.ndarray]]], None]) -> None:
    """Read all tensors of a one-file checkpoint, let `change` edit them, write them back."""
    weights = Checkpoint.open(directory).weights
    tensors = {info.name: (info.dtype, np.array(weights.raw(info.name))) for info in weights}
    change(tensors)
    (directory / "model.safetensors").unlink()
    write_safetensors(directory / "model.safetensors", tensors)


def test_the_sample_is_sound(sample: Path) -> None:
    found = survey(sample)
    assert found.findings == ()
    assert found.fatal is None
    assert found.checkpoint is not None
    assert found.name == "SmolLM2-135M-Instruct"


@pytest.mark.parametrize("tied", [False, True])
def test_random_checkpoints_are_sound(make_checkpoint: Make, tied: bool) -> None:
    assert survey(make_checkpoint(tied=tied, architecture="Qwen3ForCausalLM")).findings == ()


def test_a_finding_is_json() -> None:
    finding = Finding("a-code", "info", "message")
    assert finding.as_json() == {"code": "a-code", "severity": "info", "message": "message", "fix": ""}


def test_what_cannot_be_opened_is_fatal(tmp_path: Path) -> None:
    found = survey(tmp_path)
    assert found.checkpoint is None
    assert found.fatal is not None
    assert [finding.code for finding in found.errors] == ["no-config"]


def test_errors_come_first(make_checkpoint: Make) -> None:
    directory = make_checkpoint(config={"eos_token_id": 5})
    (directory / "generation_config.json").unlink()
    (directory / "tokenizer.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"")
    found = survey(directory)
    assert [finding.severity for finding in found.findings] == ["error", "error", "info"]
    assert [finding.code for finding in found.findings] == [
        "tokenizer-damaged",
        "shard-truncated",
        "generation-config-missing",
    ]


def test_two_templates(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    template = (directory / "chat_template.jinja").read_text()
    edit_json(directory / "tokenizer_config.json", chat_template=template + "\n")
    assert _codes(directory) == {}
    edit_json(directory / "tokenizer_config.json", chat_template="other")
    finding = _codes(directory)["template-duplicates-differ"]
    assert finding.severity == "warning"
    assert "chat_template.jinja" in finding.message


@pytest.mark.parametrize(
    ("files", "codes"),
    [
        ({"tokenizer_config.json": {"eos_token": "<|endoftext|>"}}, {"eos-disagree"}),
        ({"generation_config.json": {"eos_token_id": [0, 2]}}, set()),
        ({"generation_config.json": {"eos_token_id": 0}}, {"eos-disagree"}),
        ({"config.json": {"eos_token_id": 0}}, {"eos-disagree"}),
        ({"config.json": {"eos_token_id": 0}, "generation_config.json": {"eos_token_id": [0, 2]}}, set()),
        ({"generation_config.json": {"eos_token_id": None}}, set()),
        ({"tokenizer_config.json": {"eos_token": "<eoa>"}}, {"eos-not-a-token"}),
        ({"generation_config.json": {"eos_token_id": [2, 60000]}}, {"eos-not-a-token"}),
        (
            {
                "tokenizer_config.json": {"eos_token": None},
                "special_tokens_map.json": {"eos_token": None},
                "config.json": {"eos_token_id": None},
                "generation_config.json": {"eos_token_id": None},
            },
            {"eos-missing"},
        ),
    ],
)
def test_the_end_of_sequence(
    sample: Path, tmp_path: Path, files: dict[str, dict[str, object]], codes: set[str]
) -> None:
    assert set(_codes(copy_sample(sample, tmp_path / "variant", files=files))) == codes


def test_the_ids_are_shown_with_their_texts(sample: Path, tmp_path: Path) -> None:
    files = {"generation_config.json": {"eos_token_id": [0, 3]}}
    finding = _codes(copy_sample(sample, tmp_path / "variant", files=files))["eos-disagree"]
    assert "2 ('<|im_end|>')" in finding.message
    assert "0 ('<|endoftext|>'), 3 ('<repo_name>')" in finding.message


def test_an_eos_wrong_everywhere_is_for_the_template_to_find(sample: Path, tmp_path: Path) -> None:
    assert _codes(copy_sample(sample, tmp_path / "variant", eos="<|endoftext|>")) == {}


def test_generation_config_missing(sample: Path, tmp_path: Path) -> None:
    directory = copy_sample(sample, tmp_path / "variant", without=("generation_config.json",))
    assert _codes(directory)["generation-config-missing"].severity == "info"
    edit_json(directory / "config.json", eos_token_id=None)
    assert _codes(directory)["generation-config-missing"].severity == "warning"


def test_vocabulary_and_embedding(make_checkpoint: Make) -> None:
    padded = _codes(make_checkpoint("padded", vocab=320))["vocab-size-mismatch"]
    assert padded.severity == "info"
    assert "49 rows are padding" in padded.message
    short = _codes(make_checkpoint("short", vocab=256))["vocab-size-mismatch"]
    assert short.severity == "error"
    assert "ids from 256 on" in short.message
    other = _codes(make_checkpoint("other", config={"vocab_size": 1000}))["shape-mismatch"]
    assert "1,000" in other.message


def test_a_key_that_transformers_4_cannot_read(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    edit_json(directory / "tokenizer_config.json", extra_special_tokens=["<tool>"])
    assert set(_codes(directory)) == {"extra-special-tokens-list"}


def test_bitsandbytes(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    edit_json(
        directory / "config.json", quantization_config={"load_in_4bit": True, "quant_method": "bitsandbytes"}
    )
    assert "quantization_config" in _codes(directory)["bitsandbytes-weights"].message
    edit_json(directory / "config.json", quantization_config=None)
    name = "model.layers.0.mlp.up_proj.weight"
    _rewrite(directory, lambda tensors: tensors.update({name: ("U8", np.zeros((65536, 1), dtype=np.uint8))}))
    assert name in _codes(directory)["bitsandbytes-weights"].message
    scale = "model.layers.0.mlp.up_proj.SCB"
    _rewrite(directory, lambda tensors: tensors.update({scale: ("F32", np.zeros(4, dtype=np.float32))}))
    finding = _codes(directory)["bitsandbytes-weights"]
    assert scale in finding.message
    assert finding.severity == "error"
    assert "Merge again" in finding.fix


def test_other_quantizations_are_a_warning(make_checkpoint: Make) -> None:
    directory = make_checkpoint(config={"quantization_config": {"quant_method": "gptq", "bits": 4}})
    assert _codes(directory)["quantized-weights"].severity == "warning"


def test_the_output_matrix(make_checkpoint: Make) -> None:
    missing = make_checkpoint("missing", tied=True, config={"tie_word_embeddings": False})
    assert _codes(missing)["lm-head-missing"].severity == "error"
    trained = make_checkpoint("trained", tied=False, config={"tie_word_embeddings": True})
    assert _codes(trained)["lm-head-extra"].severity == "warning"
    _rewrite(
        trained, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"]})
    )
    assert _codes(trained)["lm-head-extra"].severity == "info"


def test_missing_layers(make_checkpoint: Make) -> None:
    finding = _codes(make_checkpoint(config={"num_hidden_layers": 5}))["layers-missing"]
    assert "no layer 2 and 2 others" in finding.message


def test_tensors_under_a_prefix_of_peft(make_checkpoint: Make) -> None:
    directory = make_checkpoint()

    def rename(tensors: dict[str, tuple[str, np.ndarray]]) -> None:
        tensors["model.embedding"] = tensors.pop("model.embed_tokens.weight")

    _rewrite(directory, rename)
    assert "embedding-missing" in _codes(directory)


def test_leftovers(make_checkpoint: Make) -> None:
    directory = make_checkpoint(shards=2)
    edit_json(directory / "adapter_config.json", base_model_name_or_path="base")
    (directory / "model-00009-of-00009.safetensors").write_bytes(b"x")
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    del index["weight_map"]["model.norm.weight"]
    edit_json(directory / "model.safetensors.index.json", **index)
    found = _codes(directory)
    assert set(found) == {"adapter-leftover", "shard-unlisted", "tensor-unlisted"}
    assert "model-00009-of-00009.safetensors" in found["shard-unlisted"].message
    assert "model.norm.weight" in found["tensor-unlisted"].message


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("mistral-instruct-runs/qwen-ft", "mistral"),
        ("Llama-2-7b-ft", "llama2"),
        ("a/b/VICUNA/c", "vicuna"),
        ("wizardlm", "vicuna"),
        ("codellama-x", "codellama"),
        ("deepseek-vl2-small", "deepseek-vl2"),
        ("mistral-base", None),
        ("Llama-3-8B-Instruct", None),
    ],
)
def test_paths_that_lmdeploy_takes_for_a_family(tmp_path: Path, name: str, template: str | None) -> None:
    from checkpoint.stored_files import check_lmdeploy_path

    found = list(check_lmdeploy_path(Path("/models") / name))
    assert [finding.code for finding in found] == (["lmdeploy-path-hijack"] if template else [])
    assert template is None or f"'{template}'" in found[0].message
