"""The figures of `portside compare` against two other programs: llama-cpp-python's llama.cpp, computing in 32
bits, and transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from deploy.compare.quantizations import DEFAULT_TEXT
from tests.convert.oracle import run_python

pytestmark = pytest.mark.engines

TYPES = ("q8_0", "q4_k_m", "q2_k")
WINDOW = 512

_LLAMA_CPP = """
import json, sys
import numpy as np
import llama_cpp
model, target, windows = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
llama = llama_cpp.Llama(model, n_ctx=512, n_batch=512, n_threads=1, logits_all=True, verbose=False,
                        type_k=0, type_v=0, flash_attn=False)
found = []
for ids in windows:
    llama.reset()
    llama.eval(ids)
    found.append(np.array(llama.scores[:len(ids)], np.float32))
np.save(target, np.stack(found))
"""

_TRANSFORMERS = """
import json, sys
import numpy as np
import torch
import transformers
source, target, windows = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
with torch.no_grad():
    found = [model(torch.tensor([ids])).logits[0].numpy() for ids in windows]
np.save(target, np.stack(found))
"""


@pytest.fixture(scope="module")
def compared(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What the command says of the sample, and the directory of its GGUF files."""
    cache = tmp_path_factory.mktemp("cache")
    types = [word for kind in TYPES for word in ("--type", kind)]
    command = [sys.executable, "-m", "cli", "compare", str(sample), *types, "--max-kl", "0.02", "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTSIDE_CACHE", str(cache))
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), cache / "gguf"


@pytest.fixture(scope="module")
def windows(sample: Path) -> list[list[int]]:
    """The ids of the text by the checkpoint's own tokenizer, in whole windows."""
    tokenizer = tokenizers.Tokenizer.from_file(str(sample / "tokenizer.json"))
    ids = tokenizer.encode(DEFAULT_TEXT.read_text(encoding="utf-8"), add_special_tokens=False).ids
    return [ids[i : i + WINDOW] for i in range(0, len(ids) - WINDOW + 1, WINDOW)]


@pytest.mark.timeout(900)
def test_types_are_ordered_as_expected(compared: tuple[dict[str, Any], Path]) -> None:
    found = compared[0]["quantizations"]
    assert [each["type"] for each in found] == ["bf16", *TYPES]
    for key in ("kl", "kl_p99", "perplexity", "rms_shift"):
        values = [each[key] for each in found]
        assert values == sorted(values), key
    tops = [each["same_top"] for each in found]
    assert tops == sorted(tops, reverse=True)
    assert compared[0]["choice"] == "q8_0"


@pytest.mark.timeout(900)
def test_divergences_agree_with_another_llama_cpp(
    compared: tuple[dict[str, Any], Path], windows: list[list[int]], tmp_path: Path
) -> None:
    """It computes with 32-bit keys, values and attention: KL within 5 %, perplexity within 1 %."""
    found, directory = compared
    logits = {
        kind: _logits("PORTSIDE_TEST_LLAMA_CPP_PYTHON", _LLAMA_CPP, _gguf(directory, kind), windows, tmp_path)
        for kind in ("bf16", *TYPES)
    }
    for each in found["quantizations"]:
        perplexity, kl = _figures(logits[each["type"]], logits["bf16"], windows)
        assert each["perplexity"] == pytest.approx(perplexity, rel=0.01), each["type"]
        assert each["kl"] == pytest.approx(kl, rel=0.05, abs=2e-4), each["type"]
        assert each["tokens"] == len(windows) * (WINDOW // 2 - 1)


def test_the_reference_agrees_with_transformers(
    compared: tuple[dict[str, Any], Path], sample: Path, windows: list[list[int]], tmp_path: Path
) -> None:
    logits = _logits("PORTSIDE_TEST_TORCH_PYTHON", _TRANSFORMERS, sample, windows, tmp_path)
    perplexity, _ = _figures(logits, logits, windows)
    assert compared[0]["quantizations"][0]["perplexity"] == pytest.approx(perplexity, rel=0.01)


def _logits(
    variable: str, script: str, source: Path, windows: Sequence[Sequence[int]], directory: Path
) -> np.ndarray[Any, Any]:
    target = directory / f"{source.name}.npy"
    run_python(variable, script, str(source), str(target), json.dumps(windows))
    found: np.ndarray[Any, Any] = np.load(target)
    return found


def _gguf(directory: Path, kind: str) -> Path:
    (path,) = directory.rglob(f"*-{kind.upper()}.gguf")
    return path


def _figures(
    logits: np.ndarray[Any, Any], reference: np.ndarray[Any, Any], windows: list[list[int]]
) -> tuple[float, float]:
    """Return (perplexity, mean KL divergence), computed here in float64."""
    losses, divergences = [], []
    for found, wanted, ids in zip(logits, reference, windows, strict=True):
        for position in range(WINDOW // 2, WINDOW - 1):
            p, q = _log_softmax(wanted[position]), _log_softmax(found[position])
            losses.append(-q[ids[position + 1]])
            divergences.append(float(np.sum(np.exp(p) * (p - q))))
    return float(np.exp(np.mean(losses))), float(np.mean(divergences))


def _log_softmax(row: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    wide = row.astype(np.float64)
    found: np.ndarray[Any, Any] = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    return found
