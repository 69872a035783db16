"""With only a tokenizer.model, text becomes the ids of the sentencepiece library, here and in llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chat_templates.stops import Stops
from checkpoint import Checkpoint, read_pieces
from convert import plan_conversion, run_conversion
from tests.checkpoints import edit_json, tensor_shapes, write_random_weights
from tests.convert.llamacpp_server import llamacpp
from tests.convert.oracle import run_python
from tests.convert.texts import hard_texts

pytestmark = pytest.mark.engines

_TRAIN = """
import json, sys
import sentencepiece
directory, options, texts = sys.argv[1], json.loads(sys.argv[2]), json.load(open(sys.argv[3]))
# A word that the training takes for one of its own marks may not occur.
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts[:len(texts) // 3]), model_prefix=directory + "/tokenizer", minloglevel=2,
    normalization_rule_name="identity", remove_extra_whitespaces=False, **options)
processor = sentencepiece.SentencePieceProcessor(model_file=directory + "/tokenizer.model")
json.dump(processor.encode(texts), open(directory + "/ids", "w"))
"""
_COMMON = {
    "model_type": "bpe",
    "vocab_size": 900,
    "byte_fallback": True,
    "character_coverage": 0.98,
    "allow_whitespace_only_pieces": True,
    "split_digits": True,
}

CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "without a prefix": {"add_dummy_prefix": False},
    "with user-defined pieces": {"user_defined_symbols": ["<sep>", "你好", "=="]},
}


@pytest.mark.parametrize("case", CASES)
def test_ids_are_sentencepieces(case: str, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    texts = [text for text in hard_texts(1500) if "\0" not in text]
    (tmp_path / "texts").write_text(json.dumps(texts), encoding="utf-8")
    options = json.dumps({**_COMMON, **CASES[case]})
    run_python("PORTSIDE_TEST_TORCH_PYTHON", _TRAIN, str(directory), options, str(tmp_path / "texts"))
    expected = json.loads((directory / "ids").read_text(encoding="utf-8"))
    checkpoint = Checkpoint.open(_around(directory))
    ours = [checkpoint.tokenizer.encode(text) for text in texts]
    assert [text for text, one, other in zip(texts, ours, expected, strict=True) if one != other] == []
    plan = plan_conversion(checkpoint, ["q8_0"], tmp_path, stops=Stops(ids=(2,)))
    (file,) = run_conversion(plan)
    if any(finding.code == "user-defined-pieces" for finding in plan.findings):
        return
    with llamacpp(file.path, tmp_path / "log") as server:
        different = [text for text, ids in zip(texts, expected, strict=True) if server.tokenize(text) != ids]
    assert different == []


def _around(directory: Path) -> Path:
    """Write the rest of a small Llama around a tokenizer.model."""
    model = read_pieces(directory / "tokenizer.model")
    assert model is not None
    rows = len(model.pieces)
    edit_json(
        directory / "config.json",
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=rows,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        eos_token_id=2,
    )
    edit_json(directory / "tokenizer_config.json", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    shapes = tensor_shapes(
        "LlamaForCausalLM",
        hidden=32,
        layers=1,
        heads=2,
        kv_heads=2,
        intermediate=32,
        vocab=rows,
        tied=True,
        bias=False,
    )
    write_random_weights(directory, shapes)
    return directory
