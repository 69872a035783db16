"""With only a tokenizer.model, text becomes the ids of the library that reads it (sentencepiece, tiktoken),
here and in llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chat_templates.stops import Stops
from checkpoint import Checkpoint, Tokenizer, read_pieces
from convert import plan_conversion, run_conversion
from convert.reader import read_gguf
from tests.checkpoints import byte_texts, edit_json, tensor_shapes, write_random_weights
from tests.convert.ids import llamacpp_ids
from tests.convert.llamacpp_server import llamacpp
from tests.convert.oracle import llamacpp_source, run_python
from tests.convert.texts import hard_texts
from tests.glm_checkpoints import ranked_bytes, write_glm
from tests.sentencepiece_model import write_model

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


@pytest.mark.parametrize("name", ["llama-spm", "phi-3"])
def test_a_real_vocabulary_gives_the_ids_that_llamacpp_is_tested_with(name: str, tmp_path: Path) -> None:
    stored = _real_vocabulary(name, tmp_path)
    texts = Path(f"{stored}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = Path(f"{stored}.out").read_text(encoding="utf-8").splitlines()
    encode = Tokenizer.open(tmp_path).encode
    assert len(texts) > 40
    assert [
        text for text, line in zip(texts, lines, strict=False) if encode(text) != list(map(int, line.split()))
    ] == []


_ENCODE = """
import json, sys
import sentencepiece
directory, texts = sys.argv[1], json.load(open(sys.argv[2]))
processor = sentencepiece.SentencePieceProcessor(model_file=directory + "/tokenizer.model")
json.dump(processor.encode(texts), open(directory + "/ids", "w"))
"""


def test_ids_of_llama_2_and_mistral_are_sentencepieces(tmp_path: Path) -> None:
    """Of Llama 2's own pieces, 10,000 texts; Mistral's 7B has the same kind of model."""
    directory = tmp_path / "model"
    directory.mkdir()
    _real_vocabulary("llama-spm", directory)
    texts = [text for text in hard_texts(10_000) if "\0" not in text]
    (tmp_path / "texts").write_text(json.dumps(texts), encoding="utf-8")
    run_python("PORTSIDE_TEST_TORCH_PYTHON", _ENCODE, str(directory), str(tmp_path / "texts"))
    expected = json.loads((directory / "ids").read_text(encoding="utf-8"))
    checkpoint = Checkpoint.open(_around(directory))
    encode = checkpoint.tokenizer.encode
    assert [text for text, ids in zip(texts, expected, strict=True) if encode(text) != ids] == []
    plan = plan_conversion(checkpoint, ["q8_0"], tmp_path, stops=Stops(ids=(2,)))
    (file,) = run_conversion(plan)
    theirs = llamacpp_ids(file.path, texts)
    assert [text for text, ids, other in zip(texts, expected, theirs, strict=True) if ids != other] == []


def _real_vocabulary(name: str, directory: Path) -> Path:
    """Write a tokenizer.model of the pieces that llama.cpp keeps for its tests; return its own file."""
    stored = llamacpp_source() / "models" / f"ggml-vocab-{name}.gguf"
    tokens, scores, kinds = (
        read_gguf(stored, arrays="all").metadata[f"tokenizer.ggml.{key}"]
        for key in ("tokens", "scores", "token_type")
    )
    pieces = zip(tokens, scores, (1 if kind == 4 else kind for kind in kinds), strict=True)
    write_model(directory / "tokenizer.model", list(pieces))
    edit_json(directory / "tokenizer_config.json", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return stored


_TIKTOKEN = """
import base64, json, sys
import tiktoken
directory, texts = sys.argv[1], json.load(open(sys.argv[2]))
words = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    r"|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
lines = (line.split() for line in open(directory + "/tokenizer.model"))
ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
encoding = tiktoken.Encoding("own", pat_str=words, mergeable_ranks=ranks, special_tokens={})
json.dump([encoding.encode_ordinary(text) for text in texts], open(directory + "/ids", "w"))
"""


def test_ids_are_tiktokens(tmp_path: Path) -> None:
    texts = hard_texts(1500)
    (tmp_path / "texts").write_text(json.dumps(texts), encoding="utf-8")
    merged = _trained(texts[:500])
    directory = write_glm(tmp_path / "model", "GlmForCausalLM", vocab_size=320)
    (directory / "tokenizer.json").unlink()
    ranked_bytes(directory, merged)
    run_python("PORTSIDE_TEST_TORCH_PYTHON", _TIKTOKEN, str(directory), str(tmp_path / "texts"))
    expected = json.loads((directory / "ids").read_text(encoding="utf-8"))
    encode = Checkpoint.open(directory).tokenizer.encode
    assert [text for text, ids in zip(texts, expected, strict=True) if encode(text) != ids] == []


def _trained(texts: list[str]) -> list[bytes]:
    """Return the tokens of a byte-level BPE trained on `texts`, in the order of its merges."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    order = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    letters = {letter: byte for byte, letter in enumerate(byte_texts())}
    return [bytes(letters[letter] for letter in text) for text, _ in order if len(text) > 1]


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
