"""A server in this process for tests: what it answers is changed while it runs.

Real HTTP on a real port, without the cost of another process.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Scripted", "scripted"]

Answer = tuple[int, Any]


@dataclass
class Scripted:
    """`get`: path -> (status, body; text is sent as it is). `chat`: what a chat request is answered with,
    None: never."""

    url: str = ""
    get: dict[str, Answer] = field(default_factory=dict)
    chat: Answer | None = None
    asked: list[str] = field(default_factory=list)
    """What was requested, in order."""
    silent: set[str] = field(default_factory=set)
    """Paths that are never answered."""
    released: threading.Event = field(default_factory=threading.Event)

    def lists(self, name: str, owner: str) -> None:
        self.get["/v1/models"] = 200, {"data": [{"id": name, "owned_by": owner}]}

    def answers(self, text: str = "Hello.", reason: str = "stop") -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        self.chat = 200, {"choices": [choice], "usage": {"completion_tokens": 3}}


@contextlib.contextmanager
def scripted(port: int = 0) -> Iterator[Scripted]:
    """Yield a healthy server of unknown make."""
    script = Scripted()
    script.get["/health"] = 200, {}
    script.lists("m", "someone")
    script.answers()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def reply(self, answer: Answer | None) -> None:
            if answer is None or self.path in script.silent:
                script.released.wait(30)
                self.close_connection = True
                return
            status, body = answer
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(data)

        def do_GET(self) -> None:
            script.asked.append(self.path)
            self.reply(script.get.get(self.path, (404, {})))

        def do_POST(self) -> None:
            script.asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(script.chat)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield script
    finally:
        script.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
