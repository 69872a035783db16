"""peft itself as the judge: it makes an adapter for a checkpoint, and merges it.

Runs in the Python that PORTSIDE_TEST_TORCH_PYTHON names (torch and transformers), with peft and what it needs
out of their wheels.
"""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from checkpoint.wheel import Wheel
from errors import EngineMissing

__all__ = ["merge_with_peft"]

_WHEELS = (
    Wheel(
        "peft==0.21.2",
        "peft-0.21.2-py3-none-any.whl",
        "106ab6077ff72c54d21577f9af5970e34bac7582cb14209f7b2b511e322a4eae",
    ),
    Wheel(
        "accelerate==1.15.0",
        "accelerate-1.15.0-py3-none-any.whl",
        "97eacca0b73e45cb867dbf8c5d5d4dc32219544300e0c8992c7334dc2ef33cec",
    ),
)

_SCRIPT = """
import json, sys
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
jobs = json.loads(sys.argv[1])
for job in jobs:
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(job["base"], dtype="auto")
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **job["config"]))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.1)
    tuned.save_pretrained(job["adapter"], safe_serialization=not job["torch"])
    if job["torch"]:
        from safetensors.torch import load_file
        import os
        made = job["adapter"] + "/adapter_model.safetensors"
        if os.path.exists(made):  # later versions of peft write nothing else
            torch.save(load_file(made), job["adapter"] + "/adapter_model.bin")
            os.remove(made)
    merged = tuned.merge_and_unload()
    merged.save_pretrained(job["merged"])
"""


def merge_with_peft(jobs: list[dict[str, Any]]) -> None:
    """For each job make an adapter with `config` (LoraConfig) of the checkpoint `base`, and merge it.

    `adapter` and `merged` are the directories to be written; `torch` asks for adapter_model.bin.
    """
    python = os.environ.get("PORTSIDE_TEST_TORCH_PYTHON")
    if not python or not Path(python).exists():
        pytest.skip("PORTSIDE_TEST_TORCH_PYTHON is not set (make test-engines sets it)")
    path = os.pathsep.join(str(_unpacked(wheel)) for wheel in _WHEELS)
    done = subprocess.run(
        [python, "-c", _SCRIPT, json.dumps(jobs)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]


def _unpacked(wheel: Wheel) -> Path:
    try:
        file = wheel.fetch()
    except EngineMissing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    directory = file.with_suffix(".unpacked")
    if not directory.is_dir():
        with zipfile.ZipFile(file) as archive:
            archive.extractall(directory)
    return directory
