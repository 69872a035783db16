"""InternLM, Baichuan, MiniCPM and GLM, tensor for tensor and key for key, against llama.cpp's own tools.

Where a file differs on purpose from the stock converter's, the case says in which keys; Baichuan 2 is
compared with the stock conversion of a checkpoint whose head was divided beforehand.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint
from convert import plan_conversion, run_conversion
from tests.checkpoints import edit_json, write_safetensors
from tests.convert.gguf_bytes import metadata, tensor_digests
from tests.convert.oracle import stock_files
from tests.glm_checkpoints import ranked_bytes, write_glm
from tests.other_families import PIECE_FAMILIES, write_piece_checkpoint

pytestmark = pytest.mark.engines

_TYPES = ("bf16", "q8_0", "q4_k_m", "q5_k_m", "q3_k_m", "q2_k")

# ChatGLM's tokenizer is Python inside the checkpoint; these are the facts of it that the converter asks for.
_CHATGLM = """
import transformers
from sentencepiece import SentencePieceProcessor
pieces = SentencePieceProcessor(checkpoint + "/tokenizer.model")
roles = ["system", "user", "assistant", "observation"]
extra = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"] + [f"<|{role}|>" for role in roles]
class Inner:
    sp_model = pieces
class Stub:
    tokenizer = Inner
    def get_vocab(self):
        return {self._convert_id_to_token(number): number for number in range(len(pieces) + len(extra))}
    def _convert_id_to_token(self, number):
        if number < len(pieces):
            return pieces.IdToPiece(number)
        return extra[number - len(pieces)] if number < len(pieces) + len(extra) else ""
transformers.AutoTokenizer.from_pretrained = lambda *args, **kwargs: Stub()
"""

# The stock converter calls itself without end for every tensor that is not W_pack.
_BAICHUAN = """
from conversion import baichuan
own = baichuan.BaichuanModel.modify_tensors
def modify(self, data, name, layer):
    of_all = baichuan.TextModel.modify_tensors
    yield from (own if name.endswith("W_pack.weight") else of_all)(self, data, name, layer)
baichuan.BaichuanModel.modify_tensors = modify
"""
_STATED = {"baichuan.attention.head_count_kv"}
"""Always written; the stock converter leaves it to llama.cpp where config.json does not say."""
_PATCHES = {"ChatGLMModel": _CHATGLM, "BaichuanForCausalLM": _BAICHUAN}


@pytest.mark.parametrize("architecture", PIECE_FAMILIES)
def test_piece_families_are_identical(architecture: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"_name_or_path": "THUDM/chatglm3-6b"} if architecture == "ChatGLMModel" else {}
    directory = write_piece_checkpoint(tmp_path / "Tiny-7M-Chat", architecture, **changes)
    stock = directory
    if architecture == "InternLMForCausalLM":  # the stock converter does not know it: the same as a Llama
        stock = Path(shutil.copytree(directory, tmp_path / "as-llama" / directory.name))
        edit_json(stock / "config.json", architectures=["LlamaForCausalLM"])
    _compare(directory, stock, tmp_path, patch=_PATCHES.get(architecture, ""), differ=_STATED)


@pytest.mark.parametrize("architecture", ["GlmForCausalLM", "Glm4ForCausalLM"])
def test_glm_is_identical(architecture: str, tmp_path: Path) -> None:
    directory = write_glm(tmp_path / "Tiny-7M-Chat", architecture)
    # Of a GlmForCausalLM the stock converter takes hidden size and constants for these.
    keys = ("context_length", "attention.layer_norm_rms_epsilon", "rope.freq_base")
    differ = {f"chatglm.{key}" for key in keys} if architecture == "GlmForCausalLM" else set()
    _compare(directory, directory, tmp_path, pre="chatglm-bpe", differ=differ)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "MiniCPMForCausalLM", "InternLM2ForCausalLM"])
def test_files_of_both_kinds_are_identical(architecture: str, tmp_path: Path) -> None:
    directory = write_piece_checkpoint(tmp_path / "Tiny-7M-Chat", architecture)
    tokenizer = Checkpoint.open(directory).tokenizer
    added = [token.as_json() for token in tokenizer.added]
    text = json.dumps({**tokenizer.raw, "added_tokens": added})
    (directory / "tokenizer.json").write_text(text, encoding="utf-8")
    assert not Checkpoint.open(directory).tokenizer.is_built
    _compare(directory, directory, tmp_path)


def test_glm_4_with_its_own_tokenizer_is_as_with_a_tokenizer_json(tmp_path: Path) -> None:
    directory = write_glm(tmp_path / "Tiny-7M-Chat", "Glm4ForCausalLM")
    (directory / "tokenizer.json").unlink()
    (directory / "chat_template.jinja").unlink()
    ranked_bytes(directory, [b"he", b"ll", b"llo", b"hello", b" w", "你".encode()[:2], "你".encode()])
    # The stock converter would run the checkpoint's Python, and find no merges.
    stock = Path(shutil.copytree(directory, tmp_path / "with-json" / directory.name))
    tokenizer = Checkpoint.open(directory).tokenizer
    added = [token.as_json() for token in tokenizer.added]
    text = json.dumps({**tokenizer.raw, "added_tokens": added, "post_processor": None})
    (stock / "tokenizer.json").write_text(text, encoding="utf-8")
    (stock / "tokenizer.model").unlink()
    edit_json(stock / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    # Of a tokenizer.json the stock converter reads which added token is the padding.
    _compare(directory, stock, tmp_path, pre="glm4", differ={"tokenizer.ggml.padding_token_id"})


def test_baichuan_2_is_a_baichuan_with_a_divided_head(tmp_path: Path) -> None:
    directory = write_piece_checkpoint(tmp_path / "Tiny-7M-Chat", "BaichuanForCausalLM", z_loss_weight=0)
    stock = Path(shutil.copytree(directory, tmp_path / "divided" / directory.name))
    weights = Checkpoint.open(directory).weights
    tensors: dict[str, tuple[str, np.ndarray[Any, Any]]] = {
        name: (weights.info(name).dtype, weights.raw(name).copy()) for name in weights.names
    }
    head = (tensors["lm_head.weight"][1].astype(np.uint32) << 16).view(np.float32)
    tensors["lm_head.weight"] = ("F32", head / np.linalg.norm(head, axis=1, keepdims=True))
    write_safetensors(stock / "model.safetensors", tensors)
    _compare(directory, stock, tmp_path, patch=_BAICHUAN, differ=_STATED)


def _compare(
    directory: Path,
    stock: Path,
    tmp_path: Path,
    *,
    pre: str = "",
    patch: str = "",
    differ: set[str] | None = None,
) -> None:
    plan = plan_conversion(Checkpoint.open(directory), _TYPES, tmp_path / "ours")
    ours = {file.type: file.path for file in run_conversion(plan)}
    theirs = stock_files(stock, tmp_path, _TYPES, pre, patch)
    for kind in _TYPES:
        assert _keys(ours[kind], differ) == _keys(theirs[kind], differ)
        assert _different(tensor_digests(ours[kind]), tensor_digests(theirs[kind])) == {}


def _keys(path: Path, differ: set[str] | None) -> dict[str, Any]:
    return {key: value for key, value in metadata(path).items() if key not in (differ or ())}


def _different(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    names = ours.keys() | theirs.keys()
    return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}
