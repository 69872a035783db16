"""Ten thousand texts become the same ids in llama.cpp, from our GGUF, as with the published tokenizer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from chat_templates.stops import Stops
from checkpoint import Checkpoint
from convert import plan_conversion, run_conversion
from tests.checkpoints import edit_json, tensor_shapes, write_random_weights
from tests.convert.ids import llamacpp_ids
from tests.convert.texts import hard_texts
from tests.published_tokenizers import PUBLISHED, published_tokenizer

pytestmark = pytest.mark.engines

_TEXTS = 10_000
_PRE = {"qwen3": "qwen2", "llama3": "llama-bpe", "llama3_1": "llama-bpe", "deepseek_v3": "deepseek-v3"}
"""llama.cpp's name of the rule; of a vocabulary of pieces it is "default"."""

_KNOWN = {"gemma3": (re.compile("▁▁"), "lower-blocks-in-text")}
"""Name -> what the texts hold that llama.cpp splits otherwise, and the finding that tells of it."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_tokenizer_gives_the_same_ids(name: str, tmp_path: Path) -> None:
    directory = _around(published_tokenizer(name), tmp_path / "model")
    checkpoint = Checkpoint.open(directory)
    stops = Stops(ids=(checkpoint.tokenizer.eos_id or 0,))
    plan = plan_conversion(checkpoint, ["q8_0"], tmp_path, stops=stops)
    metadata = {field.key: field.value for field in plan.files[0].fields}
    assert metadata["tokenizer.ggml.pre"] == _PRE.get(name, "default")
    (file,) = run_conversion(plan)
    marks = [token.content for token in checkpoint.tokenizer.added if token.special]
    texts = hard_texts(_TEXTS, marks)
    known, code = _KNOWN.get(name, (None, None))
    pairs = zip(texts, llamacpp_ids(file.path, texts), strict=True)
    different = [text for text, ids in pairs if checkpoint.tokenizer.encode(text) != ids]
    assert [text for text in different if known is None or not known.search(text)] == []
    assert code is None or code in {finding.code for finding in plan.findings}


def _around(tokenizer: Path, directory: Path) -> Path:
    """Write the rest of a small Llama around a published tokenizer."""
    directory.mkdir()
    for path in tokenizer.iterdir():
        (directory / path.name).symlink_to(path)
    raw = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    rows = 1 + max(*raw["model"]["vocab"].values(), *(entry["id"] for entry in raw["added_tokens"]))
    sizes = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 2, "intermediate": 32}
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
    )
    shapes = tensor_shapes("LlamaForCausalLM", **sizes, vocab=rows, tied=True, bias=False)
    write_random_weights(directory, shapes)
    return directory
