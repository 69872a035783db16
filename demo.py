"""`make demo`: the whole road on a real model, with the commands a user would type.

Everything it makes lies in `demo/`. It stops at the first command that fails, with that command's exit code.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

HERE = Path(__file__).resolve().parent / "demo"
MODEL = HERE / "SmolLM2-135M-Instruct"
BUNDLE = HERE / "bundle"
QUESTION = "What is the capital of France? Answer in one sentence."

console = Console(highlight=False)


def announce(number: int, title: str, arguments: list[str]) -> None:
    command = " ".join(word if " " not in word else f'"{word}"' for word in arguments)
    console.print(
        f"\n[bold cyan]{number}. {title}[/]\n[dim]$ portside {command.replace(str(HERE), 'demo')}[/]"
    )


def portside(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cli", *arguments]


def step(number: int, title: str, *arguments: str) -> None:
    """Run one command in the foreground; leave with its exit code if it fails."""
    announce(number, title, list(arguments))
    code = subprocess.run(portside(*arguments), check=False).returncode
    if code:
        sys.exit(code)


def chat_with(url: str) -> list[str]:
    return ["chat", url, "--temperature", "0", "-m", QUESTION]


def answer(url: str) -> str:
    """Ask one question through `portside chat`, showing the reply as it streams in, and return it."""
    process = subprocess.Popen(portside(*chat_with(url)), stdout=subprocess.PIPE)
    assert process.stdout is not None
    reply = bytearray()
    with process:
        while piece := os.read(process.stdout.fileno(), 4096):
            reply += piece
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    if process.returncode:
        sys.exit(process.returncode)
    return reply.decode().strip()


def serve_and_ask(number: int) -> tuple[dict[str, Any], str]:
    """Serve the model, ask it one question, stop it; return what `serve` said and the reply."""
    arguments = ["serve", "llamacpp", str(MODEL), "--runtime", "embedded", "--port", "0", "--json"]
    announce(number, "Serve it on the embedded llama.cpp engine, checked rung by rung", arguments)
    with subprocess.Popen(portside(*arguments), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            ready: dict[str, Any] = json.loads(server.stdout.readline() or "{}")
            if not ready.get("ok"):
                sys.exit(server.wait())
            announce(number + 1, "Chat with it through the official openai client", chat_with(ready["url"]))
            return ready, answer(ready["url"])
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


def main() -> None:
    began = time.monotonic()
    if MODEL.exists():
        console.print(f"\n[dim]demo/{MODEL.name} is already there; delete demo/ to start from nothing.[/]")
    else:
        step(1, "Write a real merged checkpoint", "sample", str(MODEL))
    step(2, "Look at it", "inspect", str(MODEL))
    step(3, "Prove its chat template in every dialect", "template", str(MODEL))
    types = ["--type", "q8_0", "--type", "q4_k_m"]
    step(4, "Build the bundle", "build", str(MODEL), *types, "-o", str(BUNDLE))
    ready, reply = serve_and_ask(5)
    passed = sum(rung["ok"] is True for rung in ready["rungs"])
    seconds = time.monotonic() - began
    console.print(f"\n[dim]Stopped the server. {seconds:.0f} s in all; the bundle is in demo/bundle.[/]")
    console.print(f"[bold]reply:[/] {reply}\n[bold green]health {passed}/{len(ready['rungs'])}[/]")


if __name__ == "__main__":
    main()
