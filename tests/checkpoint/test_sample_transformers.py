"""The sample in transformers itself: same ids, sensible answers, an end.

Runs in a Python that has torch and transformers: $PORTSIDE_TEST_TORCH_PYTHON, or the one beside the vLLM that
$PORTSIDE_VLLM names.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from checkpoint import Checkpoint
from tests.checkpoints import FAMILIES, write_random_checkpoint

pytestmark = pytest.mark.engines

SCRIPT = Path(__file__).with_name("transformers_script.py")
TEXTS = [
    "Hello, world!",
    "test  12 3456 x7y89 1,000.50",
    "naïve — 日本語 🙂\u200d↔️ ñ a\u0301",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "\t tabs\r\n\r\nand   spaces  ",
    "def f(x):\n    return x**2  # it's what they'll do",
    " ",
    "\u00a0\u3000\ufeff",
]


def _torch_python() -> str:
    named = os.environ.get("PORTSIDE_TEST_TORCH_PYTHON")
    vllm = os.environ.get("PORTSIDE_VLLM")
    beside = Path(vllm).parent / "python" if vllm else None
    python = named or (str(beside) if beside and beside.exists() else None)
    if python is None:
        pytest.skip("neither PORTSIDE_TEST_TORCH_PYTHON nor PORTSIDE_VLLM names a Python with torch")
    return python


def _ask(task: dict[str, Any]) -> Any:
    result = subprocess.run(
        [_torch_python(), str(SCRIPT)],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_transformers_answers_and_stops(sample: Path) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    answer = _ask({"do": "chat", "path": str(sample), "messages": messages, "texts": TEXTS})
    assert "Paris" in answer["text"]
    assert answer["ids"][-1] == answer["eos"] == 2
    assert len(answer["ids"]) < 40
    tokenizer = Checkpoint.open(sample).tokenizer
    assert answer["encoded"] == [tokenizer.encode(text) for text in TEXTS]
    assert answer["unexpected"] == []


def test_transformers_loads_the_random_checkpoints(tmp_path: Path) -> None:
    paths = []
    for architecture in FAMILIES:
        for tied in (False, True):
            directory = tmp_path / f"{architecture}-{tied}"
            bias = architecture == "LlamaForCausalLM" and not tied
            write_random_checkpoint(
                directory, architecture=architecture, tied=tied, bias=bias, shards=1 + tied
            )
            paths.append(directory)
    loaded = _ask({"do": "load", "paths": [str(path) for path in paths], "texts": TEXTS})
    for path in paths:
        checkpoint = Checkpoint.open(path)
        result = loaded[str(path)]
        assert result["unexpected"] == []
        assert result["parameters"] == checkpoint.weights.parameters
        assert result["eos"] == checkpoint.tokenizer.eos_id
        if checkpoint.config.model_type == "qwen2":
            continue  # transformers 5 puts a normalizer and a pre-tokenizer of its own in front of these
        assert result["encoded"] == [checkpoint.tokenizer.encode(text) for text in TEXTS]
