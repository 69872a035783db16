"""The embedded llama.cpp server in a process of its own, so that an abort inside it fails one test only."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

__all__ = ["LlamaCpp", "llamacpp"]

_SERVE = """
import sys
import xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.hostnames = ["127.0.0.1"]
parameters.port = 0
parameters.n_ctx = 256
parameters.n_parallel = 1
parameters.warmup = False
parameters.cpuparams.n_threads = 2
server = xllamacpp.Server(parameters)
print("PORTSIDE-TEST", server.listening_address, flush=True)
sys.stdin.read()
"""


class LlamaCpp:
    """A running server with one model."""

    def __init__(self, url: str, log: Path) -> None:
        self._client = httpx.Client(base_url=url, timeout=60)
        self.log = log

    def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._client.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    def get(self, path: str) -> Any:
        answer = self._client.get(path)
        answer.raise_for_status()
        return answer.json()

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        ids: list[int] = self.post("/tokenize", body)["tokens"]
        return ids

    def close(self) -> None:
        self._client.close()


@contextlib.contextmanager
def llamacpp(model: Path, log: Path) -> Iterator[LlamaCpp]:
    """Serve `model` until the block ends; llama.cpp's own output goes to `log`."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = _address(process.stdout)
        assert url, log.read_text(errors="replace")[-2000:]
        server = LlamaCpp(url, log)
        yield server
        server.close()
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(lines: Any) -> str | None:
    for line in lines:
        if line.startswith("PORTSIDE-TEST "):
            return str(line.split()[1])
    return None
