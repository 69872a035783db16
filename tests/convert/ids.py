"""The ids of many texts by llama.cpp's tokenizer, with the vocabulary of a GGUF file and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.convert.oracle import run_python

__all__ = ["llamacpp_ids"]

_TOKENIZE = """
import json, sys
import llama_cpp
model, texts, target = sys.argv[1:]
llama = llama_cpp.Llama(model, vocab_only=True, verbose=False)
texts = json.load(open(texts))
json.dump([llama.tokenize(text.encode(), add_bos=False, special=True) for text in texts], open(target, "w"))
"""


def llamacpp_ids(model: Path, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each text without BOS, special tokens recognised."""
    listed, found = model.with_suffix(".texts"), model.with_suffix(".ids")
    listed.write_text(json.dumps(list(texts)), encoding="utf-8")
    run_python("PORTSIDE_TEST_LLAMA_CPP_PYTHON", _TOKENIZE, str(model), str(listed), str(found))
    ids: list[list[int]] = json.loads(found.read_text(encoding="utf-8"))
    return ids
