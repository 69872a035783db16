"""An adapter's GGUF against llama.cpp's convert_lora_to_gguf.py: every key, every tensor's bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from checkpoint import Checkpoint
from convert import plan_lora, run_conversion
from tests.adapters import random_pairs, write_adapter
from tests.checkpoints import write_random_checkpoint
from tests.convert.gguf_bytes import metadata, tensor_digests
from tests.convert.oracle import llamacpp_source, run_python
from tests.native_families import write_native
from tests.other_families import write_piece_checkpoint

pytestmark = pytest.mark.engines

_CONVERT = """
import os, runpy, sys
source, *jobs = sys.argv[1:]
sys.path[:0] = [source, source + "/gguf-py"]
import conversion, torch, transformers
for job in jobs:
    base, adapter, kind, target = job.split("|")
    sys.argv = ["convert_lora_to_gguf.py", "--base", base, adapter, "--outtype", kind, "--outfile", target]
    if os.fork() == 0:  # what is imported once serves all
        runpy.run_path(source + "/convert_lora_to_gguf.py", run_name="__main__")
        sys.exit()
    assert os.wait()[1] == 0, job
"""

_NATIVE = ("Gemma2ForCausalLM", "Qwen3MoeForCausalLM")
_PIECES = ("InternLM2ForCausalLM", "ChatGLMModel")
"""Of those whose fused tensors are cut, the ones that convert_lora_to_gguf.py takes (not Baichuan)."""


@pytest.mark.timeout(600)
def test_adapters_are_llamacpps(tmp_path: Path) -> None:
    bases = {"llama": write_random_checkpoint(tmp_path / "llama", heads=8, kv_heads=2)}
    bases |= {name: write_native(tmp_path / name, name) for name in _NATIVE}
    bases |= {name: write_piece_checkpoint(tmp_path / name, name) for name in _PIECES}
    jobs, ours = [], {}
    for name, base in bases.items():
        checkpoint = Checkpoint.open(base)
        pairs = random_pairs(modules=_modules(checkpoint))
        adapter = write_adapter(tmp_path / "adapters" / f"my-{name}-lora-7b", pairs)
        kinds = ("f32", "q8_0") if name == "llama" else ("f32",)
        plan = plan_lora(checkpoint.with_adapter(adapter), kinds, tmp_path / "ours")
        for file in run_conversion(plan):
            target = tmp_path / f"{name}-{file.type}.gguf"
            jobs.append(f"{base}|{adapter}|{file.type}|{target}")
            ours[target] = file.path
    run_python("PORTSIDE_TEST_TORCH_PYTHON", _CONVERT, str(llamacpp_source()), *jobs)
    for theirs, mine in ours.items():
        assert metadata(mine) == metadata(theirs)
        assert tensor_digests(mine) == tensor_digests(theirs), theirs.name


def _modules(checkpoint: Checkpoint) -> Mapping[str, tuple[int, int]]:
    """Return the matrices of the layers, as `target_modules: all-linear` would name them."""
    found: dict[str, tuple[int, int]] = {}
    for info in checkpoint.weights:
        layer = any(part in info.name for part in (".layers.", ".block.", ".h."))
        if len(info.shape) == 2 and layer and not info.name.endswith((".gate.weight", "_gate.weight")):
            found[info.name.removesuffix(".weight")] = (info.shape[0], info.shape[1])
    return found
