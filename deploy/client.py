"""The HTTP side of the health ladder: one server, short questions, every refusal in words.

Knows URLs with and without /v1, API keys, and which server software answers. A request can be given up at
once (the engine died, the user pressed Ctrl-C): it runs in a thread of its own while the caller's `guard` is
asked many times a second. Does not know rungs.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import httpx

from errors import BadInput, UsageError

__all__ = ["Client", "Reply", "ServerKind", "base_url", "behind_proxy", "identify"]

ServerKind = Literal["vllm", "llama.cpp", "llama-cpp-python", "ollama", "lmdeploy", "unknown"]

_GUARD_INTERVAL = 0.05
"""Seconds between two looks at the engine while a request is under way."""
_LAST_WORDS = 0.2
"""Seconds after a broken connection in which the guard may say that the engine has died."""
_LOCAL = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True)
class Reply:
    """An HTTP answer, or why there was none (`status` 0, the reason in `failure`)."""

    status: int
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    failure: str | None = None
    timed_out: bool = False
    """There was no answer because the time was up, not because the server refused."""

    @property
    def ok(self) -> bool:
        return self.status == 200

    @property
    def json(self) -> Any:
        """The body as JSON, None when it is none."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None

    def words(self) -> str:
        """Say in one line what came back: `HTTP 400: No chat template`, `connection refused`."""
        if self.failure is not None:
            return self.failure
        body = self.json
        error = body.get("error", body.get("message", body.get("detail"))) if isinstance(body, dict) else None
        if isinstance(error, dict):
            error = error.get("message")
        said = str(error if error is not None else self.text).strip().replace("\n", " ")
        if said.startswith("<"):
            said = "a web page"
        return f"HTTP {self.status}: {said[:300]}" if said else f"HTTP {self.status}"


def base_url(url: str) -> str:
    """Return the server's root without a final slash or `/v1`; raises `UsageError` for what is no URL."""
    text = url if "://" in url else f"http://{url}"
    try:
        parsed = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise UsageError(f"{url!r} is not a URL: {error}.", hint="Example: http://127.0.0.1:8000") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"{url!r} is not the URL of a server.", hint="Example: http://127.0.0.1:8000")
    return str(parsed.copy_with(query=None, fragment=None)).rstrip("/").removesuffix("/v1").rstrip("/")


class Client:
    """Talks to one server. `guard` is called while waiting; what it raises ends the waiting."""

    def __init__(
        self, url: str, *, api_key: str | None = None, guard: Callable[[], None] | None = None
    ) -> None:
        self.url = base_url(url)
        self.api_key = api_key
        self.guard = guard or (lambda: None)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # a proxy of the environment is for the world outside, not for a server on this machine
        trust = httpx.URL(self.url).host not in _LOCAL
        self._http = httpx.Client(headers=headers, trust_env=trust, follow_redirects=True)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, timeout: float = 10.0) -> Reply:
        return self._await([lambda: self._send("GET", path, None, timeout)])[0]

    def post(self, path: str, body: Mapping[str, Any], timeout: float = 60.0) -> Reply:
        return self.post_all(path, [body], timeout)[0]

    def head(self, path: str, timeout: float = 10.0) -> Reply:
        return self._await([lambda: self._send("HEAD", path, None, timeout)])[0]

    def upload(self, path: str, file: Path, timeout: float = 60.0) -> Reply:
        """POST the bytes of `file`; `timeout`: seconds without any progress. Raises `BadInput`."""
        try:
            with file.open("rb") as stream:
                return self._await([lambda: self._send("POST", path, stream, timeout)])[0]
        except OSError as error:
            raise BadInput(f"Cannot read {file}: {error.strerror}.") from error

    def post_all(self, path: str, bodies: Sequence[Mapping[str, Any]], timeout: float) -> list[Reply]:
        """Send several requests at the same time (batching engines answer them in the time of one)."""
        return self._await([lambda body=body: self._send("POST", path, body, timeout) for body in bodies])  # type: ignore[misc]

    def pause(self, seconds: float) -> None:
        """Sleep, but not through what the guard has to say."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.guard()
            time.sleep(min(_GUARD_INTERVAL, left))
        self.guard()

    def _await(self, calls: Sequence[Callable[[], Reply]]) -> list[Reply]:
        replies: list[Reply | None] = [None] * len(calls)

        def run(index: int) -> None:
            replies[index] = calls[index]()

        threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(_GUARD_INTERVAL)
                self.guard()
        if any(reply is not None and reply.status == 0 for reply in replies):
            self.pause(_LAST_WORDS)
        return [reply or Reply(0, failure="no answer") for reply in replies]

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | BinaryIO | None, timeout: float
    ) -> Reply:
        try:
            limits = httpx.Timeout(timeout, connect=min(5.0, timeout))
            content: dict[str, Any] = {"json": body} if body is None or isinstance(body, Mapping) else {}
            found = self._http.request(
                method, self.url + path, timeout=limits, **(content or {"content": body})
            )
            return Reply(found.status_code, found.text, dict(found.headers))
        except httpx.TimeoutException:
            return Reply(0, failure=f"no answer within {timeout:.0f} s", timed_out=True)
        except httpx.ConnectError as error:
            return Reply(0, failure=f"cannot connect to {self.url}: {error}")
        except (httpx.HTTPError, RuntimeError, ValueError) as error:
            return Reply(0, failure=f"the connection broke: {str(error) or type(error).__name__}")


def behind_proxy(url: httpx.URL) -> bool:
    """Tell whether the environment's proxy stands between this machine and the server."""
    return (
        url.host not in _LOCAL
        and bool({url.scheme, "all"} & urllib.request.getproxies().keys())
        and not urllib.request.proxy_bypass(url.host)
    )


def identify(models: Reply) -> ServerKind:
    """Return which software answers, from its reply to GET /v1/models."""
    body = models.json
    data = body.get("data") if isinstance(body, dict) else None
    entries = data if isinstance(data, list) else []
    owners = {str(entry.get("owned_by")) for entry in entries if isinstance(entry, dict)}
    for owner, kind in _OWNERS.items():
        if owner in owners:
            return kind
    server = models.headers.get("server", "").lower()
    return "llama.cpp" if "llama.cpp" in server else "unknown"


_OWNERS: dict[str, ServerKind] = {
    "vllm": "vllm",
    "llamacpp": "llama.cpp",
    "me": "llama-cpp-python",
    "library": "ollama",
    "lmdeploy": "lmdeploy",
}
"""`owned_by` in the list of models; Ollama names the name space, `library` for local models too."""
