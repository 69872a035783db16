"""Servers for tests and benchmarks: each engine as `portside serve` runs it, and ways to make it fail.

    llamacpp   the embedded llama.cpp
    ollama     `fake_ollama`: its REST protocol, Go's text/template and llama.cpp
    lmdeploy   LMDeploy's own API server over transformers (`lmdeploy_on_cpu`), out of PORTSIDE_TEST_LMDEPLOY
    vllm       vLLM's build for CPUs, out of PORTSIDE_VLLM

A server takes up to forty seconds to come up, so tests that do not need one of their own share it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from tests.chat_templates.go_oracle.oracle import oracle_program

__all__ = ["ENGINES", "KEY", "Running", "environment_of", "installed", "meddling", "serving", "stopped"]

ROOT = Path(__file__).parents[2]
ENGINES = ("llamacpp", "ollama", "lmdeploy", "vllm")
KEY = "secret"
_OPTIONS = {
    "llamacpp": ("--runtime", "embedded"),
    # a request may bring a template of its own
    "vllm": ("--", "--trust-request-chat-template", "--max-model-len", "2048"),
}
_FAULT = {"lmdeploy": "LMDEPLOY_TEST_FAULT", "ollama": "FAKE_OLLAMA"}


@dataclass(frozen=True)
class Running:
    """A server that `portside serve` has found healthy. `pid` is the engine's process."""

    engine: str
    url: str
    model: str
    key: str | None
    pid: int
    report: Mapping[str, Any]
    faults: Path
    """What the stand-ins read with every request: the name of what goes wrong."""

    @contextlib.contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """Let a stand-in misbehave for a while."""
        assert self.engine in _FAULT, f"{self.engine} is the real one"
        self.faults.write_text(name)
        try:
            yield
        finally:
            self.faults.write_text("")


def installed(engine: str) -> bool:
    """Tell whether a server of this engine can be started here."""
    needed = {"vllm": "PORTSIDE_VLLM", "lmdeploy": "PORTSIDE_TEST_LMDEPLOY"}.get(engine)
    return needed is None or needed in os.environ


def environment_of(engine: str, directory: Path) -> dict[str, str]:
    """Make what stands in for `engine` in `directory`; return the variables that name it."""
    if engine == "ollama":
        return {
            "PORTSIDE_OLLAMA": str(_ollama_program(directory)),
            "PORTSIDE_TEST_GO_ORACLE": str(oracle_program()),
            "OLLAMA_MODELS": str(directory / "models"),
        }
    if engine == "vllm":
        return {"VLLM_SERVER_DEV_MODE": "1"}  # in which it can be sent to sleep
    if engine == "lmdeploy":
        base = Path(os.environ["PORTSIDE_TEST_LMDEPLOY"])
        return {"PORTSIDE_LMDEPLOY": str(_lmdeploy_environment(base, directory / "environment"))}
    return {}


@contextlib.contextmanager
def serving(engine: str, model: Path, directory: Path, options: Sequence[str] = ()) -> Iterator[Running]:
    """Run `portside serve ENGINE MODEL OPTIONS` until the block ends. `directory`: for all that it makes."""
    directory.mkdir(parents=True, exist_ok=True)
    key, faults = None if engine == "ollama" else KEY, directory / "fault"
    faults.write_text("")
    env = {**os.environ, "PORTSIDE_CACHE": str(directory / "cache"), **environment_of(engine, directory)}
    env |= {"PORTSIDE_API_KEY": key} if key else {}
    env |= {_FAULT[engine]: f"@{faults}"} if engine in _FAULT else {}
    command = [sys.executable, "-m", "cli", "serve", engine, str(model), "--port", "0", "--json", *options]
    with (directory / "messages").open("w+") as messages:
        process = subprocess.Popen(
            [*command, *_OPTIONS.get(engine, ())], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=messages
        )
        assert process.stdout is not None
        try:
            report = json.loads(process.stdout.readline() or "{}")
            assert report.get("ok"), (report, (directory / "messages").read_text())
            yield Running(engine, report["url"], report["model"], key, report["pid"], report, faults)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            process.stdout.close()


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Let a process hang: it keeps its connections and its port, and does nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def meddling(url: str, **fields: Any) -> Iterator[str]:
    """Run a proxy that adds `fields` to every chat request on its way to the server; return its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def pass_on(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/v1/chat/completions":
                content = json.dumps({**json.loads(content), **fields}).encode()
            kept = {
                name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers
            }
            reply = httpx.request(
                self.command, url + self.path, content=content, headers=kept, timeout=120, trust_env=False
            )
            self.send_response_only(reply.status_code)
            for name in ("Content-Type", "Server"):
                if name in reply.headers:
                    self.send_header(name, reply.headers[name])
            self.send_header("Content-Length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)

        do_GET = do_POST = pass_on  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _ollama_program(directory: Path) -> Path:
    program = directory / "bin" / "ollama"
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tests.engines.fake_ollama "$@"\n'
    )
    program.chmod(0o755)
    return program


def _lmdeploy_environment(base: Path, directory: Path) -> Path:
    """Make an environment on top of `base`, with no packages of its own, in which LMDeploy needs no GPU."""
    subprocess.run([base / "bin/python", "-m", "venv", "--without-pip", directory], check=True)
    (packages,) = directory.glob("lib/python3*/site-packages")
    (theirs,) = base.glob("lib/python3*/site-packages")
    (packages / "base.pth").write_text(f"{theirs}\n")
    shutil.copy(Path(__file__).with_name("lmdeploy_on_cpu.py"), packages / "sitecustomize.py")
    (info,) = theirs.glob("lmdeploy-*.dist-info")
    (packages / info.name).symlink_to(info)
    program = directory / "bin" / "lmdeploy"
    program.write_text(f"#!{directory}/bin/python\nfrom lmdeploy.cli.entrypoint import run\nrun()\n")
    program.chmod(0o755)
    return directory
