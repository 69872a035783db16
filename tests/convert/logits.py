"""The logits of a model for given ids: by llama.cpp from a GGUF file, by transformers from a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.oracle import run_python

__all__ = ["llamacpp_logits", "transformers_logits"]

# Everything in float32, also keys and values, so that only the order of sums differs. YaRN's factors are the
# file's (-1), where llama-cpp-python has values of its own.
_LLAMA_CPP = """
import json, sys
import numpy as np
import llama_cpp
model, target, ids = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
llama = llama_cpp.Llama(model, n_ctx=256, n_batch=256, n_threads=2, logits_all=True, verbose=False,
                        type_k=0, type_v=0, flash_attn=False,
                        yarn_attn_factor=-1.0, yarn_beta_fast=-1.0, yarn_beta_slow=-1.0)
llama.eval(ids)
np.save(target, np.array(llama.scores[:len(ids)], np.float32))
"""

_TRANSFORMERS = """
import json, sys
import numpy as np
import torch
import transformers
source, target, ids = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model, info = transformers.AutoModelForCausalLM.from_pretrained(
    source, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
missing = set(info["missing_keys"]) - ({"lm_head.weight"} if model.config.tie_word_embeddings else set())
assert not missing and not info["unexpected_keys"] and not info["mismatched_keys"], info
with torch.no_grad():
    logits = model.eval()(torch.tensor([ids])).logits[0]
np.save(target, logits.numpy())
"""


def llamacpp_logits(model: Path, ids: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return (ids, vocabulary) logits of the GGUF file `model`."""
    return _run("PORTSIDE_TEST_LLAMA_CPP_PYTHON", _LLAMA_CPP, model, ids)


def transformers_logits(checkpoint: Path, ids: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return (ids, vocabulary) logits of a checkpoint that transformers has a class for."""
    return _run("PORTSIDE_TEST_TORCH_PYTHON", _TRANSFORMERS, checkpoint, ids)


def _run(variable: str, script: str, source: Path, ids: Sequence[int]) -> np.ndarray[Any, Any]:
    target = source.parent / f"{source.name}-logits.npy"
    run_python(variable, script, str(source), str(target), json.dumps(list(ids)))
    loaded: np.ndarray[Any, Any] = np.load(target)
    return loaded
