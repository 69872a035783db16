"""A fake engine for tests: a real process and a real HTTP server that misbehaves on request.

Started as `python fake_engine.py --port P [flags]`; it speaks enough of the OpenAI API for the health ladder.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def end(code: int) -> None:
    say(f"ends at {time.monotonic()}")
    os._exit(code)


class Handler(BaseHTTPRequestHandler):
    options: argparse.Namespace
    born = time.monotonic()
    protocol_version = "HTTP/1.1"

    def version_string(self) -> str:
        return "llama.cpp" if self.options.kind == "llamacpp" else "uvicorn"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def allowed(self) -> bool:
        key = self.options.api_key
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            self.answer(401, {"error": "Unauthorized"})
            return False
        return True

    def do_GET(self) -> None:
        if self.path == "/health":
            if self.options.hang_health:
                time.sleep(300)
            loading = time.monotonic() - self.born < self.options.loading
            self.answer(503 if loading else self.options.health_status, {})
        elif self.path == "/v1/models" and self.allowed():
            owners = {"vllm": "vllm", "old-vllm": "vllm", "llamacpp": "llamacpp", "ollama": "library"}
            owner = owners.get(self.options.kind, "someone")
            self.answer(200, {"object": "list", "data": [{"id": self.options.name, "owned_by": owner}]})
        elif self.path == "/version" and self.options.kind == "vllm":
            self.answer(200, {"version": "0.0.fake"})
        elif self.path == "/props" and self.options.kind == "llamacpp":
            self.answer(200, {"bos_token": "<s>", "chat_template": ""})
        elif self.path.startswith("/v1"):
            pass  # answered with 401
        else:
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if self.path == "/v1/chat/completions":
            if self.allowed():
                self.chat(body)
        elif self.path == "/apply-template" and self.options.kind == "llamacpp":
            self.answer(200, {"prompt": self.prompt(body["messages"]).removeprefix("<s>")})
        elif self.path == "/api/chat" and body["_debug_render_only"]:
            rendered = self.prompt(body["messages"]).removeprefix("<s>")
            self.answer(200, {"_debug_info": {"rendered_template": rendered}})
        elif self.path == "/tokenize" and self.options.kind == "old-vllm":
            self.answer(200, {"tokens": [ord(c) for c in self.prompt(body["messages"])]})
        elif self.path == "/detokenize" and self.options.kind == "old-vllm":
            self.answer(200, {"prompt": "".join(map(chr, body["tokens"]))})
        elif self.path == "/tokenize" and self.options.kind == "llamacpp":
            text = ("<s>" if body.get("add_special") and not self.options.no_bos else "") + body["content"]
            self.answer(200, {"tokens": [{"id": ord(c), "piece": c} for c in text]})
        else:
            self.answer(404, {"detail": "Not Found"})

    def prompt(self, messages: list[dict[str, str]]) -> str:
        turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        return f"<s>{turns}<|im_start|>assistant\n".replace("\n", " " if self.options.wrong_prompt else "\n")

    def chat(self, body: dict[str, Any]) -> None:
        options = self.options
        if options.die_on_chat:
            say("RuntimeError: CUDA error: an illegal memory access was encountered")
            end(9)
        if options.slow_chat:
            time.sleep(options.slow_chat)
        if options.chat_status != 200:
            self.answer(options.chat_status, {"error": {"message": options.chat_error}})
            return
        reason = "length" if options.never_stops or body["max_tokens"] < 5 else "stop"
        text = options.text if not options.never_stops else options.text * body["max_tokens"]
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if options.thinks and body["max_tokens"] < 1000:
            reason, message = "length", {"role": "assistant", "content": "", "reasoning_content": "Hmm, "}
        reply: dict[str, Any] = {
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
        }
        if options.kind == "vllm" and body.get("return_prompt_text"):
            reply["prompt_text"] = self.prompt(body["messages"])
            reply["prompt_token_ids"] = [ord(c) for c in reply["prompt_text"]]
        self.answer(200, reply)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--name", default="fake")
    parser.add_argument(
        "--kind", default="other", choices=("vllm", "old-vllm", "llamacpp", "ollama", "other")
    )
    parser.add_argument("--api-key", default=os.environ.get("FAKE_API_KEY", ""))
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--grandchildren", type=int, default=0, help="stubborn processes with own sessions")
    parser.add_argument("--print", default="", dest="words", help="a line for the log")
    parser.add_argument("--die-after", type=float, default=0.0)
    parser.add_argument("--exit-code", type=int, default=1)
    parser.add_argument("--die-on-chat", action="store_true")
    parser.add_argument("--no-listen", action="store_true")
    parser.add_argument("--hang-health", action="store_true")
    parser.add_argument("--health-status", type=int, default=200)
    parser.add_argument("--loading", type=float, default=0.0)
    parser.add_argument("--late", action="store_true", help="its port is closed while it loads")
    parser.add_argument("--slow-chat", type=float, default=0.0)
    parser.add_argument("--chat-status", type=int, default=200)
    parser.add_argument("--chat-error", default="no chat template is defined")
    parser.add_argument("--text", default="Hello there.")
    parser.add_argument("--never-stops", action="store_true")
    parser.add_argument("--thinks", action="store_true")
    parser.add_argument("--wrong-prompt", action="store_true")
    parser.add_argument("--no-bos", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.words:
        say(options.words)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.ignore_sigterm else lambda *_: os._exit(0))
    for _ in range(options.grandchildren):
        # the child in between ends at once: the stubborn one is an orphan with a session of its own
        spawn = (
            "import subprocess, sys; "
            f"subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], start_new_session=True)"
        )
        subprocess.run([sys.executable, "-c", spawn], check=True)
    if options.die_after:
        threading.Timer(options.die_after, end, (options.exit_code,)).start()
    say("fake engine is up")
    if options.no_listen:
        time.sleep(300)
    if options.late:
        time.sleep(options.loading)
    Handler.options = options
    server = ThreadingHTTPServer((options.host, options.port), Handler)
    server.daemon_threads = True
    if options.loading:
        say(f"can answer from {max(time.monotonic(), Handler.born + options.loading)}")
    server.serve_forever()


if __name__ == "__main__":
    main()
