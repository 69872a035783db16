"""A stand-in for the `ollama` program: its REST protocol, with the real parts behind it.

`python -m tests.engines.fake_ollama serve` listens on OLLAMA_HOST and keeps blobs in OLLAMA_MODELS. The
TEMPLATE of a model is executed by Go's own text/template; the rendered prompt is completed by the real
llama.cpp, started when a model is first used, as Ollama starts its runner. Misbehaviour is asked for with
FAKE_OLLAMA, a list of what follows or `@FILE`, which is read with every request:

    drop-template   forget the TEMPLATE, as when the GGUF's own one is taken
    half-template   leave out what the TEMPLATE writes in front of an answer
    rename          list a created model under another name
    no-load         the runner dies while it loads, and one that runs is gone
    refuse          /api/create ends in an error under HTTP 200
    corrupt         a byte is lost while a blob is stored
    silent          the model says nothing
    stuck           the runner does not answer
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from deploy.engines.llamacpp import EMBEDDED
from deploy.ports import free_port, is_open
from tests.chat_templates.go_oracle.oracle import go_oracle

VERSION = os.environ.get("FAKE_OLLAMA_VERSION", "0.24.0")
_FAULTS = os.environ.get("FAKE_OLLAMA", "")

Message = dict[str, Any]


def faults() -> list[str]:
    return (Path(_FAULTS[1:]).read_text() if _FAULTS.startswith("@") else _FAULTS).split(",")


class Problem(Exception):
    """An HTTP error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Library:
    """The created models, the blobs, and the one runner."""

    def __init__(self, blobs: Path) -> None:
        self.blobs = blobs
        self.models: dict[str, dict[str, Any]] = {}
        self.keep_alive: dict[str, Any] = {}
        self.used = datetime.now(UTC)
        self.lock = threading.Lock()
        self.http = httpx.Client(timeout=300, trust_env=False)
        self.loaded: str | None = None
        self.runner: subprocess.Popen[bytes] | None = None
        self.url = ""
        blobs.mkdir(parents=True, exist_ok=True)

    def blob(self, digest: str) -> Path:
        return self.blobs / digest.replace(":", "-")

    def find(self, name: str) -> dict[str, Any]:
        full = name if ":" in name else f"{name}:latest"
        if full not in self.models:
            raise Problem(404, f"model '{name}' not found")
        return self.models[full]

    def create(self, request: dict[str, Any]) -> None:
        (digest,) = request["files"].values()
        path = self.blob(digest)
        if not path.is_file():
            raise Problem(400, "invalid digest")
        with path.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise Problem(400, "unknown type")
        template = request.get("template", "{{ .Prompt }}")
        name = request["model"] if "rename" not in faults() else "something-else"
        self.models[name if ":" in name else f"{name}:latest"] = {
            "path": str(path),
            "template": template,
            "system": request.get("system", ""),
            "parameters": dict(request.get("parameters", {})),
        }

    def load(self, name: str) -> None:
        """Start llama.cpp on the model's blob; `/api/version` has answered long before."""
        model = self.find(name)
        self.used = datetime.now(UTC)
        with self.lock:
            dies = "no-load" in faults()
            if self.loaded == model["path"] and self.runner and self.runner.poll() is None and not dies:
                return
            self.unload()
            if dies:
                raise Problem(500, "llama runner process has terminated: exit status 2")
            port = free_port()
            context = str(model["parameters"].get("num_ctx", 4096))
            command = [sys.executable, "-P", str(EMBEDDED), "--model", model["path"], "--port", str(port)]
            # two threads would wait for each other wherever another process takes a core
            self.runner = subprocess.Popen([*command, "--ctx-size", context, "--threads", "1"])
            self.url = f"http://127.0.0.1:{port}"
            while not is_open("127.0.0.1", port) or self.http.get(f"{self.url}/health").status_code != 200:
                if self.runner.poll() is not None:
                    raise Problem(500, "llama runner process has terminated")
                time.sleep(0.05)
            self.loaded = model["path"]

    def in_memory(self) -> list[dict[str, Any]]:
        """Return what /api/ps lists; every use of a model moves the time at which it is due to go."""
        due = (self.used + timedelta(minutes=5)).isoformat()
        return [
            {"name": f"{name}:latest", "expires_at": due, "keep_alive": kept}
            for name, kept in self.keep_alive.items()
        ]

    def unload(self) -> None:
        if self.runner is not None:
            self.runner.terminate()
            self.runner.wait()
        self.runner = self.loaded = None

    def render(self, name: str, messages: Sequence[Message]) -> str:
        model, template = self.find(name), self.template(name)
        merged = collate(messages)
        if model["system"] and merged[0]["role"] != "system":
            merged = [{"role": "system", "content": model["system"]}, *merged]
        system = "\n\n".join(m["content"] for m in merged if m["role"] == "system")
        if ".Messages" in template:
            turns = [{"Role": m["role"], "Content": m["content"]} for m in merged]
            return self.execute(template, {"System": system, "Tools": None, "Response": ""}, turns)
        # legacy mode, for the template that a model without one gets: once per turn, answers follow
        parts = {"user": "Prompt", "system": "System", "assistant": "Response"}
        blank = dict.fromkeys(parts.values(), "")
        turns = [{**blank, parts[m["role"]]: m["content"]} for m in merged]
        return "".join(self.execute(template + "{{ .Response }}", turn, None) for turn in turns)

    def template(self, name: str) -> str:
        template: str = self.find(name)["template"]
        if "drop-template" in faults():
            return "{{ .Prompt }}"
        if "half-template" in faults():
            return template.replace("<|im_start|>assistant\\n", "").replace("<|im_start|>assistant\n", "")
        return template

    def fit(self, name: str, messages: Sequence[Message]) -> str:
        """Render, without the oldest messages where the context is too small for all; nobody is told."""
        kept = list(messages)
        while (prompt := self.render(name, kept)) and self.count(prompt) >= self.context(name):
            oldest = next((i for i, m in enumerate(kept[:-1]) if m["role"] != "system"), None)
            if oldest is None:
                return self.cut(prompt, 256)  # Ollama keeps more, which says nothing more and takes a minute
            del kept[oldest]
        return prompt

    def context(self, name: str) -> int:
        return int(self.find(name)["parameters"].get("num_ctx", 4096))

    def count(self, prompt: str) -> int:
        return len(self.tokens(prompt))

    def cut(self, prompt: str, size: int) -> str:
        body = {"tokens": self.tokens(prompt)[-size:]}
        text: str = self.http.post(f"{self.url}/detokenize", json=body).json()["content"]
        return text

    def tokens(self, prompt: str) -> list[int]:
        found: list[int] = self.http.post(f"{self.url}/tokenize", json={"content": prompt}).json()["tokens"]
        return found

    def execute(self, template: str, data: Mapping[str, Any], messages: Any) -> str:
        with self.lock:
            rendered = go_oracle().render(template, data, messages)
        if rendered is None:
            raise Problem(500, "")
        return rendered.decode()

    def complete(self, request: dict[str, Any], prompt: str) -> Iterator[dict[str, Any]]:
        """Let llama.cpp complete `prompt`, a piece at a time; the last has `stop`.

        A request's `stop` takes the place of the Modelfile's list.
        """
        stop = request.get("stop") or self.find(request["model"])["parameters"].get("stop", [])
        body = {
            "prompt": prompt,
            "n_predict": request.get("max_tokens", -1),
            "stop": stop,
            "temperature": request.get("temperature", 1.0),
            "top_p": request.get("top_p", 1.0),
            "stream": True,
        }
        if "silent" in faults():
            body["logit_bias"] = [[self.tokens(stop[0])[0], 100.0]]
        if "stuck" in faults():
            time.sleep(300)
        with self.http.stream("POST", f"{self.url}/completion", json=body) as reply:
            for line in reply.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))


def collate(messages: Sequence[Message]) -> list[Message]:
    """Merge neighbours of one role, as Ollama does before a template sees them."""
    merged = [dict(message) for message in messages[:1]]
    for before, message in pairwise(messages):
        if message["role"] == before["role"] != "tool":
            merged[-1]["content"] += "\n\n" + message["content"]
        else:
            merged.append(dict(message))
    return merged


class Handler(BaseHTTPRequestHandler):
    library: Library
    protocol_version = "HTTP/1.1"

    def log_message(self, form: str, *words: Any) -> None:
        sys.stdout.write(f"[GIN] {form % words}\n")
        sys.stdout.flush()

    def answer(self, status: int, body: Any, kind: str = "application/json") -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        there = self.library.blob(self.path.rpartition("/")[2]).is_file()
        self.answer(200 if there else 404, "")

    def do_GET(self) -> None:
        names = list(self.library.models)
        if self.path == "/":
            self.answer(200, "Ollama is running", "text/plain")
        elif self.path == "/api/version":
            self.answer(200, {"version": VERSION})
        elif self.path == "/api/tags":
            self.answer(200, {"models": [{"name": name, "model": name} for name in names]})
        elif self.path == "/api/ps":
            self.answer(200, {"models": self.library.in_memory()})
        elif self.path == "/v1/models":
            listed = [{"id": name, "object": "model", "owned_by": "library"} for name in names]
            self.answer(200, {"object": "list", "data": listed or None})
        else:
            self.answer(404, "404 page not found", "text/plain")

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        try:
            if self.path.startswith("/api/blobs/"):
                self.store(self.path.rpartition("/")[2], length)
                return
            self.reply(json.loads(self.rfile.read(length)))
        except Problem as problem:
            inside = {"message": str(problem)} if self.path.startswith("/v1") else str(problem)
            self.answer(problem.status, {"error": inside} if str(problem) else "")

    def store(self, digest: str, length: int) -> None:
        target = self.library.blob(digest)
        if target.exists():
            self.connection.close()  # as measured: the connection is reset
            return
        content, partial = hashlib.sha256(), target.with_suffix(".part")
        with partial.open("wb") as stream:
            while length > 0 and (chunk := self.rfile.read(min(length, 1 << 20))):
                length -= len(chunk)
                kept = chunk[:-1] if "corrupt" in faults() and not length else chunk
                content.update(kept)
                stream.write(kept)
        if f"sha256:{content.hexdigest()}" != digest:
            partial.unlink()
            raise Problem(400, f"digest mismatch, expected {digest!r}")
        partial.replace(target)
        self.answer(201, "")

    def reply(self, request: dict[str, Any]) -> None:
        library = self.library
        if self.path == "/api/create":
            self.create(request)
        elif self.path == "/api/show":
            found = library.find(request["model"])
            self.answer(200, {key: found[key] for key in ("template", "system", "parameters")})
        elif self.path == "/api/generate" and "prompt" not in request:
            library.load(request["model"])
            library.keep_alive[request["model"]] = request.get("keep_alive", "5m")
            self.answer(200, {"model": request["model"], "response": "", "done": True, "done_reason": "load"})
        elif self.path in ("/api/chat", "/v1/chat/completions"):
            if request.get("tools") and ".Tools" not in library.find(request["model"])["template"]:
                raise Problem(400, f"registry.ollama.ai/library/{request['model']} does not support tools")
            library.load(request["model"])
            self.chat(request, library.fit(request["model"], request["messages"]))
        else:
            self.answer(404, "404 page not found", "text/plain")

    def create(self, request: dict[str, Any]) -> None:
        lines = [{"status": "parsing GGUF"}]
        try:
            if "refuse" in faults():
                raise Problem(400, "unsupported architecture")
            self.library.create(request)
            lines += [{"status": "writing manifest"}, {"status": "success"}]
        except Problem as problem:
            lines.append({"error": str(problem)})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self.answer(200, text, "application/x-ndjson")

    def chat(self, request: dict[str, Any], prompt: str) -> None:
        if request.get("_debug_render_only"):
            self.answer(200, {"model": request["model"], "_debug_info": {"rendered_template": prompt}})
            return
        pieces = self.library.complete(request, prompt)
        if request.get("stream") and self.path.startswith("/v1"):
            self.stream(pieces, usage=bool((request.get("stream_options") or {}).get("include_usage")))
            return
        said = list(pieces)
        done = said[-1]
        message = {"role": "assistant", "content": "".join(piece["content"] for piece in said)}
        if self.path == "/api/chat":
            self.answer(200, {"message": message, "done": True, "done_reason": _reason(done)})
            return
        choice = {"index": 0, "message": message, "finish_reason": _reason(done)}
        self.answer(200, {"object": "chat.completion", "choices": [choice], "usage": _usage(done)})

    def stream(self, pieces: Iterator[dict[str, Any]], *, usage: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for piece in pieces:
            delta = {"role": "assistant", "content": piece["content"]}
            self.event(delta, _reason(piece) if piece["stop"] else None)
            if piece["stop"] and usage:
                self.event(None, None, _usage(piece))
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, delta: Any, reason: str | None, usage: Any = None) -> None:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": choices, "usage": usage}
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def _reason(done: Mapping[str, Any]) -> str:
    return "length" if done["stop_type"] == "limit" else "stop"


def _usage(done: Mapping[str, Any]) -> dict[str, int]:
    return {"prompt_tokens": done["tokens_evaluated"], "completion_tokens": done["tokens_predicted"]}


def main() -> None:
    if sys.argv[1:] != ["serve"]:
        sys.exit(f'Error: unknown command {sys.argv[1:]} for "ollama"')
    host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition(":")
    Handler.library = library = Library(Path(os.environ["OLLAMA_MODELS"]) / "blobs")
    ThreadingHTTPServer.request_queue_size = 128  # as many clients at once as a real server lets wait
    server = ThreadingHTTPServer((host, int(port)), Handler)
    server.daemon_threads = True

    def end(*_: object) -> None:
        library.unload()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    sys.stdout.write(f"Listening on {host}:{port} (version {VERSION})\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
