"""Opening a checkpoint: what is read at once, what waits, and where the chat template comes from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint import Checkpoint, CheckpointFlaw
from tests.checkpoints import CHATML, FAMILIES, edit_json

Make = Callable[..., Path]


def _flaw(path: Path) -> CheckpointFlaw:
    with pytest.raises(CheckpointFlaw) as caught:
        Checkpoint.open(path)
    return caught.value


def test_the_sample(sample: Path) -> None:
    checkpoint = Checkpoint.open(sample)
    config = checkpoint.config
    assert checkpoint.name == "SmolLM2-135M-Instruct"
    assert (config.architecture, config.model_type, config.dtype) == ("LlamaForCausalLM", "llama", "bfloat16")
    assert (config.hidden_size, config.intermediate_size, config.layers) == (576, 1536, 30)
    assert (config.heads, config.kv_heads, config.head_dim) == (9, 3, 64)
    assert (config.vocab_size, config.context_length) == (49152, 8192)
    assert (config.rms_norm_eps, config.rope_theta, config.rope_scaling) == (1e-5, 1e5, None)
    assert config.tie_word_embeddings
    assert checkpoint.generation.eos_token_ids == config.eos_token_ids == (2,)
    assert checkpoint.weights.parameters == 134_515_008
    assert checkpoint.chat_template is not None
    assert "<|im_start|>" in checkpoint.chat_template


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_random_checkpoints_of_every_family(make_checkpoint: Make, architecture: str, tied: bool) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(architecture=architecture, tied=tied, vocab=288))
    assert checkpoint.config.architecture == architecture
    assert ("lm_head.weight" in checkpoint.weights) is not tied
    assert ("model.layers.0.self_attn.q_proj.bias" in checkpoint.weights) is (
        architecture == "Qwen2ForCausalLM"
    )
    assert ("model.layers.1.self_attn.q_norm.weight" in checkpoint.weights) is (
        architecture == "Qwen3ForCausalLM"
    )
    assert checkpoint.weights.info("model.embed_tokens.weight").shape == (288, 256)


def test_opening_needs_neither_tokenizer_nor_weights(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    (directory / "tokenizer.json").unlink()
    (directory / "model.safetensors").unlink()
    checkpoint = Checkpoint.open(directory)
    assert checkpoint.config.layers == 2
    with pytest.raises(CheckpointFlaw, match=r"neither tokenizer\.json nor tokenizer\.model"):
        _ = checkpoint.tokenizer
    with pytest.raises(CheckpointFlaw, match=r"model\.safetensors"):
        _ = checkpoint.weights


def test_the_jinja_file_wins(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    edit_json(directory / "tokenizer_config.json", chat_template="other")
    checkpoint = Checkpoint.open(directory)
    assert checkpoint.chat_template == checkpoint.chat_templates.jinja_file == CHATML
    assert checkpoint.chat_templates.tokenizer_config == "other"
    (directory / "chat_template.jinja").unlink()
    assert Checkpoint.open(directory).chat_template == "other"


def test_a_list_of_named_templates(make_checkpoint: Make) -> None:
    directory = make_checkpoint(chat_template=None)
    assert Checkpoint.open(directory).chat_template is None
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    edit_json(directory / "tokenizer_config.json", chat_template=named)
    assert Checkpoint.open(directory).chat_template == "d"
    edit_json(directory / "tokenizer_config.json", chat_template=named[:1])
    assert Checkpoint.open(directory).chat_template is None


@pytest.mark.parametrize("template", [3, {"default": "x"}, [{"name": "default", "template": 3}]])
def test_a_template_that_is_no_text(make_checkpoint: Make, template: object) -> None:
    directory = make_checkpoint(chat_template=None)
    edit_json(directory / "tokenizer_config.json", chat_template=template)
    assert "chat_template" in _flaw(directory).message


def test_names(make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = make_checkpoint("my model")
    monkeypatch.chdir(directory)
    assert Checkpoint.open(Path()).name == "my model"
    assert Checkpoint.open(Path(f"{directory}/")).name == "my model"


def test_what_is_no_checkpoint(make_checkpoint: Make, tmp_path: Path) -> None:
    assert _flaw(tmp_path / "nowhere").code == "not-a-directory"
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert "GGUF" in (_flaw(file).hint or "")
    assert _flaw(Path("a\0b")).code in {"not-a-directory", "unreadable"}
    assert _flaw(tmp_path / ("n" * 300)).code == "unreadable"
    assert _flaw(tmp_path).code == "no-config"
    nested = make_checkpoint("checkpoint-500")
    assert str(nested) in (_flaw(tmp_path).hint or "")


def test_an_adapter_is_told_how_to_merge(tmp_path: Path) -> None:
    edit_json(tmp_path / "adapter_config.json", base_model_name_or_path="base")
    flaw = _flaw(tmp_path)
    assert flaw.code == "adapter-only"
    assert "portside merge BASE" in (flaw.hint or "")


def test_the_room_is_quick_to_import() -> None:
    heavy = "{'numpy', 'gguf', 'tokenizers'}"
    code = f"import sys, checkpoint, checkpoint.sample; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
