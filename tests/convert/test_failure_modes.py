"""What goes wrong for people who make a GGUF, and where it is shown that here it comes out right, or is
refused in words. Tests without a file name are in this file; the others are named from tests/ on.

| what goes wrong | where it is shown |
|---|---|
| the splitting rule of a BPE tokenizer is not recognised, or taken from the wrong place | \
`test_the_rule_is_read_from_the_file_not_from_the_name_of_the_model`, \
`test_an_unknown_rule_names_the_way_out`, convert/test_vocabulary.py, convert/test_tokenization.py |
| the end of a turn is one of several ids, or the wrong one | `test_every_end_of_a_turn_is_in_the_file`, \
convert/test_stops.py (llama.cpp really stops) |
| a fine-tune talks on for ever in Ollama | `test_the_modelfile_stops_on_a_turn_end_of_its_own`, \
modelfiles/test_modelfile_for.py |
| two chat templates that differ | `test_the_template_of_transformers_is_the_one_in_the_file`, \
checkpoint/test_survey.py |
| more or fewer rows in the embedding than tokens | `test_a_padded_vocabulary_runs`, \
`test_tokens_without_a_row_are_refused`, convert/test_vocabulary.py |
| tokenizer files that are missing or spelled anew | `test_a_missing_tokenizer_is_called_missing`, \
`test_a_list_of_extra_tokens_changes_nothing`, checkpoint/test_tokenizer.py |
| an output matrix that is tied, missing or too many | `test_a_missing_head_is_named`, \
convert/test_tensors.py |
| a merge into a model that bitsandbytes had packed | `test_packed_weights_are_refused_for_what_they_are`, \
checkpoint/test_survey.py |
| two beginnings of sequence | `test_llamacpp_reads_one_beginning`, convert/test_metadata.py |
| InternLM2: one matrix for q, k and v, and a turn end beside the eos | \
`test_internlm2_stops_on_both_ids`, convert/test_other_families.py |
| the directory of an adapter in place of a model | `test_an_adapter_is_told_from_a_model`, \
checkpoint/test_model.py, checkpoint/test_adapter.py |
| a K-quant asked of the converter | `test_a_k_quant_is_one_command`, convert/test_types.py, \
convert/test_against_llamacpp.py |
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from checkpoint import Checkpoint
from cli import main
from convert import read_gguf
from modelfiles import parse
from tests.checkpoints import CHATML, copy_sample, edit_json, tiny_tokenizer, write_safetensors
from tests.convert.llamacpp_server import llamacpp
from tests.other_families import write_piece_checkpoint

Make = Callable[..., Path]
Stored = tuple[str, np.ndarray[Any, Any]]

_UP = "model.layers.0.mlp.up_proj"


def _gguf(directory: Path, *options: str) -> Result:
    """Run `portside gguf DIRECTORY` (Q8_0 unless told) with the output beside the checkpoint."""
    types = () if "--type" in options else ("--type", "q8_0")
    return CliRunner().invoke(
        main, ["gguf", str(directory), "-o", str(directory.parent / "out"), "--json", *types, *options]
    )


def _made(directory: Path, *options: str) -> Path:
    done = _gguf(directory, *options)
    assert done.exit_code == 0, done.output
    return Path(json.loads(done.stdout)["files"][0]["path"])


def _refusal(directory: Path, *options: str) -> tuple[str, str]:
    """Return message and hint of a command that must end as bad input and leave no file."""
    refused = _gguf(directory, *options)
    assert refused.exit_code == 3, refused.output
    assert not list(directory.parent.glob("out/*"))
    error = json.loads(refused.stdout)["error"]
    return error["message"], error["hint"]


def _metadata(file: Path) -> Mapping[str, Any]:
    return read_gguf(file, arrays="all").metadata


def _rewrite(directory: Path, changes: Mapping[str, Stored | None]) -> None:
    weights = Checkpoint.open(directory).weights
    stored = {info.name: (info.dtype, np.array(weights.raw(info.name))) for info in weights}
    kept = {name: value for name, value in {**stored, **changes}.items() if value is not None}
    write_safetensors(directory / "model.safetensors", kept)


def test_the_table_names_what_there_is() -> None:
    table = __doc__ or ""
    assert len(table.splitlines()) == 3 + 2 + 12
    tests = set(re.findall(r"`(test_\w+)`", table))
    assert tests == {name for name in globals() if name.startswith("test_")} - {
        "test_the_table_names_what_there_is"
    }
    files = set(re.findall(r"\w+/test_\w+\.py", table))
    assert {file for file in files if not (Path(__file__).parents[1] / file).is_file()} == set()


@pytest.mark.parametrize("architecture", ["Qwen2ForCausalLM", "LlamaForCausalLM"])
def test_the_rule_is_read_from_the_file_not_from_the_name_of_the_model(
    make_checkpoint: Make, architecture: str
) -> None:
    """transformers 5 gives every qwen2 the rule of Qwen2; this tokenizer.json has GPT-2's."""
    directory = make_checkpoint(architecture=architecture)
    assert _metadata(_made(directory))["tokenizer.ggml.pre"] == "gpt-2"


def test_an_unknown_rule_names_the_way_out(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    edit_json(directory / "tokenizer.json", pre_tokenizer={"type": "Whitespace"})
    message, hint = _refusal(directory)
    assert "pre-tokenizer" in message
    assert "--pre NAME" in message + hint
    assert _metadata(_made(directory, "--pre", "qwen2"))["tokenizer.ggml.pre"] == "qwen2"


def test_every_end_of_a_turn_is_in_the_file(make_checkpoint: Make, tmp_path: Path) -> None:
    """The tokenizer names one end only; the template ends turns on another, in generation_config.json."""
    directory = copy_sample(
        make_checkpoint(), tmp_path / "two", rename={"<|im_end|>": "<eoa>"}, eos="<|endoftext|>"
    )
    edit_json(directory / "generation_config.json", eos_token_id=[268, 270])
    metadata = _metadata(_made(directory))
    ends = {metadata["tokenizer.ggml.eos_token_id"], metadata["tokenizer.ggml.eot_token_id"]}
    assert {metadata["tokenizer.ggml.tokens"][end] for end in ends} == {"<|endoftext|>", "<eoa>"}


def test_the_modelfile_stops_on_a_turn_end_of_its_own(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = copy_sample(
        make_checkpoint(), tmp_path / "own", rename={"<|im_end|>": "<eoa>"}, eos="<|endoftext|>"
    )
    done = CliRunner().invoke(main, ["modelfile", str(directory)])
    assert done.exit_code == 0, done.output
    modelfile = parse(done.stdout)
    assert "<eoa>" in modelfile.values("stop")
    assert "<eoa>" in (modelfile.template or "")


def test_the_template_of_transformers_is_the_one_in_the_file(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    edit_json(directory / "tokenizer_config.json", chat_template=CHATML.replace("im_start", "im_begin"))
    assert _metadata(_made(directory))["tokenizer.chat_template"] == CHATML


def test_a_padded_vocabulary_runs(make_checkpoint: Make, tmp_path: Path) -> None:
    """An added token is one id for llama.cpp too, and rows without a token are no hindrance."""
    added = {"id": 271, "content": "<tool>", "special": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    directory = make_checkpoint(vocab=320)
    tokens = [*tiny_tokenizer()["added_tokens"], {**added, **flags}]
    edit_json(directory / "tokenizer.json", added_tokens=tokens)
    with llamacpp(_made(directory), tmp_path / "log") as server:
        assert server.tokenize("<tool>") == [271]
        answer = server.post("/completion", {"prompt": "hello<tool>", "n_predict": 2, "ignore_eos": True})
    assert answer["tokens_predicted"] == 2


def test_tokens_without_a_row_are_refused(make_checkpoint: Make) -> None:
    message, _ = _refusal(make_checkpoint(vocab=270))
    assert "270 rows" in message


@pytest.mark.parametrize(
    ("left", "hinted"), [((), "base model"), (("vocab.json", "merges.txt"), "save_pretrained")]
)
def test_a_missing_tokenizer_is_called_missing(
    make_checkpoint: Make, left: tuple[str, ...], hinted: str
) -> None:
    directory = make_checkpoint()
    (directory / "tokenizer.json").unlink()
    for name in left:
        (directory / name).write_text("{}")
    message, hint = _refusal(directory)
    assert "neither tokenizer.json nor tokenizer.model" in message
    assert hinted in hint


def test_a_list_of_extra_tokens_changes_nothing(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    before = _made(directory).read_bytes()
    edit_json(directory / "tokenizer_config.json", extra_special_tokens=["<|im_start|>", "<|im_end|>"])
    assert _made(directory).read_bytes() == before


def test_a_missing_head_is_named(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    _rewrite(directory, {"lm_head.weight": None})
    message, hint = _refusal(directory)
    assert "lm_head.weight" in message
    assert hint


@pytest.mark.parametrize(
    "packed",
    [
        {f"{_UP}.weight": ("U8", np.zeros((65536, 1), np.uint8))},
        {
            f"{_UP}.weight": ("I8", np.zeros((512, 256), np.int8)),
            f"{_UP}.SCB": ("F32", np.ones(512, np.float32)),
        },
        {f"{_UP}.weight.quant_state.bitsandbytes__nf4": ("U8", np.zeros(90, np.uint8))},
    ],
)
def test_packed_weights_are_refused_for_what_they_are(
    make_checkpoint: Make, packed: Mapping[str, Stored]
) -> None:
    """Even where config.json does not say so."""
    directory = make_checkpoint()
    _rewrite(directory, packed)
    message, hint = _refusal(directory)
    assert f"quantized by bitsandbytes (tensor {list(packed)[-1]})" in message
    assert "without load_in_4bit" in hint


def test_llamacpp_reads_one_beginning(make_checkpoint: Make, tmp_path: Path) -> None:
    """The template writes the token and the tokenizer adds it."""
    directory = make_checkpoint(chat_template="{{ bos_token }}" + CHATML)
    edit_json(directory / "tokenizer_config.json", add_bos_token=True, bos_token="<|endoftext|>")
    prompt = "<|endoftext|><|im_start|>user\nhello<|im_end|><|im_start|>assistant\n"
    wanted = Checkpoint.open(directory).tokenizer.encode(prompt)
    assert wanted.count(268) == 1
    messages = [{"role": "user", "content": "hello"}]
    with llamacpp(_made(directory), tmp_path / "log") as server:
        shown = server.post("/apply-template", {"messages": messages})["prompt"]
        assert server.tokenize(shown, add_special=True) == wanted
        answer = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1})
    assert answer["usage"]["prompt_tokens"] == len(wanted)


def test_internlm2_stops_on_both_ids(tmp_path: Path) -> None:
    metadata = _metadata(_made(write_piece_checkpoint(tmp_path / "model", "InternLM2ForCausalLM")))
    ends = [metadata[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot")]
    assert [metadata["tokenizer.ggml.tokens"][end] for end in ends] == ["</s>", "<|im_end|>"]


def test_an_adapter_is_told_from_a_model(tmp_path: Path) -> None:
    directory = tmp_path / "adapter"
    directory.mkdir()
    edit_json(directory / "adapter_config.json", base_model_name_or_path="base")
    message, hint = _refusal(directory)
    assert "LoRA adapter" in message
    assert "Merge it" in hint


@pytest.mark.parametrize("spelling", ["q4_k_m", "Q4_K_M", "q4"])
def test_a_k_quant_is_one_command(make_checkpoint: Make, spelling: str) -> None:
    file = _made(make_checkpoint(), "--type", spelling)
    assert file.name.endswith("-Q4_K_M.gguf")
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    types = {tensor.name: tensor.type for tensor in read_gguf(file).tensors}
    assert types["blk.0.attn_q.weight"] == "Q4_K"
    assert _metadata(file)["general.file_type"] == 15
