"""An adapter's GGUF against llama.cpp's convert_lora_to_gguf.py: every key, every tensor's bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from checkpoint import Checkpoint
from checkpoint.adapted import embedding_name
from convert import plan_lora, run_conversion
from tests.adapters import random_pairs, write_adapter
from tests.checkpoints import write_random_checkpoint
from tests.convert.gguf_bytes import metadata, tensor_digests
from tests.convert.oracle import llamacpp_source, run_python
from tests.native_families import write_native_checkpoint

pytestmark = pytest.mark.engines

_CONVERT = """
import sys
source, *jobs = sys.argv[1:]
sys.path[:0] = [source, source + "/gguf-py"]
import runpy
for job in jobs:
    base, adapter, kind, target = job.split("|")
    sys.argv = ["convert_lora_to_gguf.py", "--base", base, adapter, "--outtype", kind, "--outfile", target]
    runpy.run_path(source + "/convert_lora_to_gguf.py", run_name="__main__")
"""
