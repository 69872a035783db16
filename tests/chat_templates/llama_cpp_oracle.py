"""llama.cpp's own Jinja as an oracle: the embedded server's /apply-template over a tiny random model.

The server runs in a process of its own, one after the other for each template, so that an abort inside it
loses one template only.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checkpoint import Checkpoint
from convert import plan_conversion, run_conversion
from tests.checkpoints import write_random_checkpoint

__all__ = ["BOS", "EOS", "LlamaCppJinja"]

BOS, EOS = "<|im_start|>", "<|im_end|>"
"""The tiny model's tokens; llama.cpp leaves BOS out of what it returns where its tokenizer adds it."""

_WORKER = """
import json, sys, urllib.error, urllib.request
import xllamacpp
for line in sys.stdin:
    asked = json.loads(line)
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.hostnames = sys.argv[1], ["127.0.0.1"]
    parameters.port, parameters.n_ctx, parameters.n_parallel, parameters.warmup = 0, 64, 1, False
    parameters.use_jinja, parameters.chat_template = True, asked["template"]
    parameters.cpuparams.n_threads = 1
    prompts = []
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError:
        server = None
    for body in asked["bodies"] if server else ():
        url = server.listening_address + "/apply-template"
        try:
            answer = urllib.request.urlopen(url, json.dumps(body).encode(), timeout=30)
            prompts.append(json.load(answer)["prompt"])
        except urllib.error.HTTPError:
            prompts.append(None)
    del server
    print("PROMPTS " + json.dumps(prompts), flush=True)
"""


class LlamaCppJinja:
    """A running worker; a context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> LlamaCppJinja:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def prompts(self, template: str, bodies: Sequence[dict[str, Any]]) -> list[str | None] | None:
        """Return llama.cpp's prompt for each request body, None for one that it refuses; None in all where
        its server does not start with the template."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"template": template, "bodies": list(bodies)}) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("PROMPTS "):
                found: list[str | None] = json.loads(line.removeprefix("PROMPTS "))
                return found or None
        self._end()
        return None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _WORKER, str(_tiny_model())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@functools.cache
def _tiny_model() -> Path:
    directory = Path(_scratch().name)
    model = write_random_checkpoint(
        directory / "model", hidden=32, layers=1, heads=2, kv_heads=2, intermediate=32, dtype="F32"
    )
    return run_conversion(plan_conversion(Checkpoint.open(model), ["f32"], directory / "gguf"))[0].path
