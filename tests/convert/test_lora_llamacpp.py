"""An adapter's GGUF against llama.cpp's convert_lora_to_gguf.py: every key, every tensor's bytes."""

from __future__ import annotations

import pytest

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
