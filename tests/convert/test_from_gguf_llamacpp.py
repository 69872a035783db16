"""An architecture that is unknown here, through llama.cpp's converter: its quantizer's bytes; it loads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint import Checkpoint
from convert import TYPES, plan_from_gguf, run_conversion
from convert.llama_cpp import converted, find_checkout
from convert.types import FILE_TYPES
from tests.convert.foreign import write_gpt2
from tests.convert.gguf_bytes import metadata, tensor_digests
from tests.convert.llamacpp_server import llamacpp
from tests.convert.oracle import llamacpp_source, quantize

pytestmark = pytest.mark.engines


def test_gpt2_is_quantized_as_llamacpp_does(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = os.environ.get("PORTSIDE_TEST_TORCH_PYTHON")
    if not python:
        pytest.skip("PORTSIDE_TEST_TORCH_PYTHON is not set (make test-engines sets it)")
    monkeypatch.setenv("LLAMA_CPP_PYTHON", python)
    model = Checkpoint.open(write_gpt2(tmp_path / "gpt2", sample, rows=49152, layers=9))
    quantized = [kind for kind in TYPES if kind not in {"f32", "f16", "bf16"}]
    with converted(find_checkout(llamacpp_source()), model, tmp_path / "out") as file:
        plan = plan_from_gguf(model, file, (*quantized, "bf16"), tmp_path / "out")
        ours = {made.type: made.path for made in run_conversion(plan)}
        targets = {kind: tmp_path / f"{kind}.gguf" for kind in quantized}
        quantize(file, [(FILE_TYPES[kind].number, path) for kind, path in targets.items()])
        written = {"bf16": file, **targets}
        for kind, theirs in written.items():
            assert tensor_digests(ours[kind]) == tensor_digests(theirs), kind
            assert metadata(ours[kind]) == metadata(theirs)
    assert len(list((tmp_path / "out").iterdir())) == len(written)
    with llamacpp(ours["q4_k_m"], tmp_path / "log") as server:
        answer = server.post("/completion", {"prompt": "Hello", "n_predict": 3, "ignore_eos": True})
    assert answer["tokens_predicted"] == 3
