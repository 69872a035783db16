"""The embedded llama.cpp server in a process of its own, so that an abort inside it fails one test only."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["LlamaCpp", "llamacpp"]

_SERVE = """
import sys
import xllamacpp


def lora(path):
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = path, 1.0
    return adapter


parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.hostnames = ["127.0.0.1"]
parameters.port = 0
parameters.n_ctx = 256
parameters.n_parallel = 1
parameters.warmup = False
parameters.cpuparams.n_threads = 1
parameters.lora_adapters = [lora(path) for path in sys.argv[2:]]
server = xllamacpp.Server(parameters)
print("PORTSIDE-TEST", server.listening_address, flush=True)
sys.stdin.read()
"""


class LlamaCpp:
    """A running server with one model."""

    def __init__(self, url: str, log: Path) -> None:
        # a quarter of httpx's time a request, and tests send tens of thousands
        self._connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=60)
        self.log = log

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", path, json.dumps(body))

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:
        self._connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status == 200, (path, answer.status, content[:500])
        return json.loads(content)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        ids: list[int] = self.post("/tokenize", body)["tokens"]
        return ids

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def llamacpp(model: Path, log: Path, adapters: Sequence[Path] = ()) -> Iterator[LlamaCpp]:
    """Serve `model` with `adapters` until the block ends; llama.cpp's own output goes to `log`."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(model), *map(str, adapters)],
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
