"""Files of every type and every architecture load in llama.cpp and give tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from checkpoint import Checkpoint
from convert import TYPES, plan_conversion, run_conversion
from tests.checkpoints import FAMILIES, write_random_checkpoint

_LOAD = """
import json, sys, urllib.request
import xllamacpp
for path in sys.argv[1:]:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.hostnames = ["127.0.0.1"]
    parameters.port, parameters.n_ctx, parameters.n_parallel, parameters.warmup = 0, 64, 1, False
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)
    body = json.dumps({"prompt": "Hello", "n_predict": 3, "ignore_eos": True}).encode()
    request = urllib.request.Request(server.listening_address + "/completion", body)
    answer = json.load(urllib.request.urlopen(request, timeout=30))
    print("LOADED", json.dumps([path, answer["tokens_predicted"]]), flush=True)
    del server
"""


def _tokens_of(files: list[Path]) -> dict[str, int]:
    """Load each file in llama.cpp, in a process of its own; return file name -> tokens it gave."""
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (line.removeprefix("LOADED ") for line in done.stdout.splitlines() if line.startswith("LOADED "))
    return {Path(path).name: count for path, count in map(json.loads, lines)}


def test_every_type_loads(tmp_path: Path) -> None:
    model = Checkpoint.open(write_random_checkpoint(tmp_path / "model"))
    made = run_conversion(plan_conversion(model, TYPES, tmp_path))
    found = _tokens_of([file.path for file in made])
    assert found == {file.path.name: 3 for file in made}
    assert len(found) == len(TYPES)


def test_every_architecture_loads(tmp_path: Path) -> None:
    files = []
    for architecture in FAMILIES:
        path = write_random_checkpoint(tmp_path / architecture, architecture=architecture)
        made = run_conversion(plan_conversion(Checkpoint.open(path), ("q4_k_m",), tmp_path))
        files += [file.path for file in made]
    assert set(_tokens_of(files).values()) == {3}
