"""A hub on this machine: what the libraries of the Hugging Face Hub and of ModelScope ask, from memory.

It speaks the endpoints that huggingface_hub 2 and modelscope-hub 0.5 call for a download, with the headers
that they read (X-Repo-Commit, ETag, X-Linked-Etag, Range and Content-Range, Retry-After), and can be told to
fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

__all__ = ["COMMIT", "HubServer", "hub_server"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000
"""Bytes from which a file counts as large (LFS): its SHA-256 is known."""


@dataclass
class HubServer:
    """Its content and its faults. `requests` are (method, path, Range header) in order."""

    repo: str
    files: dict[str, bytes]
    url: str = ""
    cut: dict[str, int] = field(default_factory=dict)
    """File -> bytes after which the connection breaks, every time."""
    spoilt: dict[str, int] = field(default_factory=dict)
    """File -> how many more times it arrives with a wrong byte."""
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Statuses and headers of the next answers."""
    refuse_files: bool = False
    """Whether `refusals` are for files, not for listings."""
    token: str | None = None
    """Who does not send it is answered 401."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def ranges(self, name: str) -> list[str | None]:
        """Return the Range headers with which `name` was asked for, in order."""
        return [found for method, path, found in self.requests if method == "GET" and path.endswith(name)]


@contextlib.contextmanager
def hub_server(repo: str, files: dict[str, bytes]) -> Iterator[HubServer]:
    """Serve one repository until the block ends."""
    state = HubServer(repo, files)
    handler = type("Handler", (_Handler,), {"hub": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlparse(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        name = query.get("FilePath") or unquote(url.path)
        self.hub.requests.append((self.command, name, self.headers.get("Range")))
        is_file = "FilePath" in query or "/resolve/" in url.path
        if self.hub.refusals and is_file == self.hub.refuse_files:
            status, headers = self.hub.refusals.pop(0)
            self._send(status, json.dumps({"error": "no", "Code": status, "Message": "no"}).encode(), headers)
        elif not self._authorized():
            self._send(401, b'{"error": "Invalid credentials"}', {"X-Error-Message": "Invalid credentials"})
        elif url.path.startswith("/api/v1/models/"):
            self._modelscope(url.path.removeprefix("/api/v1/models/"), query)
        else:
            self._hugging_face(unquote(url.path))

    def _authorized(self) -> bool:
        token = self.hub.token
        sent = f"{self.headers.get('Authorization', '')} {self.headers.get('Cookie', '')}"
        return token is None or token in sent

    def _hugging_face(self, path: str) -> None:
        repo = re.escape(self.hub.repo)
        if re.fullmatch(rf"/api/models/{repo}(/revision/(main|{COMMIT}))?", path):
            self._json({"id": self.hub.repo, "sha": COMMIT, "siblings": []})
        elif re.fullmatch(rf"/api/models/{repo}/revision/.*", path):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif re.fullmatch(rf"/api/models/{repo}/tree/{COMMIT}", path):
            self._json([_entry(name, data) for name, data in self.hub.files.items()])
        elif found := re.fullmatch(rf"/{repo}/resolve/{COMMIT}/(.*)", path):
            self._file(found[1])
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _modelscope(self, path: str, query: dict[str, str]) -> None:
        if path == f"{self.hub.repo}/repo/files" and query.get("Revision") == "master":
            entries = [
                {"Path": name, "Type": "blob", "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
                for name, data in self.hub.files.items()
            ]
            self._json({"Code": 200, "Data": {"Files": entries}, "Success": True})
        elif path == f"{self.hub.repo}/repo" and query.get("FilePath") in self.hub.files:
            self._file(query["FilePath"])
        else:
            self._send(404, b'{"Code": 10010205001, "Message": "not found", "Success": false}')

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, name: str) -> None:
        data = self.hub.files[name]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_etag(data)}"', "Accept-Ranges": "bytes"}
        if len(data) >= LARGE:
            headers |= {"X-Linked-Etag": f'"{_etag(data)}"', "X-Linked-Size": str(len(data))}
        start = 0
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start = int(found[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = self._spoil(name, data)[start:]
        self.send_response(206 if found else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            cut = self.hub.cut.get(name)
            self.wfile.write(body if cut is None else body[: max(cut - start, 0)])
            self.close_connection = cut is not None

    def _spoil(self, name: str, data: bytes) -> bytes:
        if self.command == "GET" and self.hub.spoilt.get(name, 0) > 0:
            self.hub.spoilt[name] -= 1
            return bytes([data[0] ^ 1]) + data[1:]
        return data


def _etag(data: bytes) -> str:
    if len(data) >= LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
    if len(data) >= LARGE:
        entry |= {"oid": "0" * 40, "lfs": {"oid": _etag(data), "size": len(data), "pointerSize": 130}}
    return entry
