"""The near side of the Jinja worker: starts it, feeds it, and turns what happens into `TemplateError`.

Knows pipes, time and what a worker's death means. Does not know Jinja (see `jinja_worker`).
A template from the internet is a program; whatever it does, the caller gets an answer in bounded time.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from chat_templates.dates import MARKS
from chat_templates.template import Message
from errors import TemplateError

__all__ = ["JinjaRequest", "JinjaWorker", "RenderFailed", "Renderer", "shared_worker", "switch"]

TEMPLATE_LIMIT = 1 << 20
"""Characters of template text; the largest public template seen has about 40,000."""
OUTPUT_LIMIT = 4 << 20
"""Characters of one rendering."""
CPU_SECONDS = 2
"""CPU time for one rendering; a real one takes about a millisecond."""
WALL_SECONDS = 20.0
"""Time for one rendering on a machine that is busy with other things."""


def switch(thinking: bool | None) -> dict[str, bool]:
    """Return the template variable that turns thinking on or off, as engines pass it; none for None."""
    return {} if thinking is None else {"enable_thinking": thinking}


class RenderFailed(TemplateError):
    """A template did not render.

    `kind` is syntax, raised, undefined, security, limit, continue, unpredictable or failed.
    """

    def __init__(self, message: str, *, kind: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


@dataclass(frozen=True)
class JinjaRequest:
    """One conversation to render, with what transformers hands to the template beside the messages."""

    messages: Sequence[Message]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    tools: Sequence[dict[str, Any]] | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    """Further template variables, such as other special tokens or `enable_thinking`."""
    now: str | None = None
    """ISO date and time that `strftime_now` sees; None is the real clock."""
    typed_content: bool = False
    """Hand texts over as lists of one part, `[{"type": "text", "text": …}]`."""
    mark_dates: bool = False
    """Write the patterns themselves in the place of dates, between the marks of `dates`."""
    llama_cpp: bool = False
    """Render as llama.cpp's server does, not transformers; of `variables` it knows `enable_thinking`."""

    def as_json(self) -> dict[str, Any]:
        """Return the worker's form of this request; tokens that do not exist stay undefined."""
        tokens = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        return {
            "messages": list(self.messages),
            "add_generation_prompt": self.add_generation_prompt and not self.continue_final_message,
            "continue_final_message": self.continue_final_message,
            "tools": None if self.tools is None else list(self.tools),
            "variables": {**{k: v for k, v in tokens.items() if v is not None}, **self.variables},
            "now": self.now,
            "typed_content": self.typed_content,
            "date_marks": MARKS if self.mark_dates else None,
            "llama_cpp": self.llama_cpp,
        }


class Renderer(Protocol):
    """What probing asks for prompts: the Jinja worker, or another engine that renders the same requests."""

    def render(self, template: str, request: JinjaRequest) -> str: ...

    def render_all(self, template: str, requests: Sequence[JinjaRequest]) -> list[str | RenderFailed]: ...


class JinjaWorker:
    """A worker process, started when first needed and again after it had to be killed."""

    def __init__(
        self,
        *,
        cpu_seconds: int = CPU_SECONDS,
        wall_seconds: float = WALL_SECONDS,
        output_limit: int = OUTPUT_LIMIT,
    ) -> None:
        self._cpu, self._wall, self._output = cpu_seconds, wall_seconds, output_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = bytearray()
        self._lock = threading.Lock()
        self._condemned: dict[str, RenderFailed] = {}

    def __enter__(self) -> JinjaWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def render(self, template: str, request: JinjaRequest) -> str:
        """Return the rendering. Raises `RenderFailed`."""
        result = self.render_all(template, [request])[0]
        if isinstance(result, RenderFailed):
            raise result
        return result

    def render_all(self, template: str, requests: Sequence[JinjaRequest]) -> list[str | RenderFailed]:
        """Render many conversations with one template; a failure stands in the place of its text.

        A template whose process had to be ended once is not tried again: it would cost its limit every time.
        """
        if len(template) > TEMPLATE_LIMIT:
            failed = RenderFailed(
                f"The chat template has {len(template):,} characters; {TEMPLATE_LIMIT:,} is the limit.",
                kind="limit",
            )
            return [failed] * len(requests)
        if not requests:
            return []
        with self._lock:
            if template in self._condemned:
                return [self._condemned[template]] * len(requests)
            return self._render_all(template, requests)

    def close(self) -> None:
        """End the process and wait for it. The worker can be used again afterwards."""
        process, self._process = self._process, None
        self._buffer.clear()
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _render_all(self, template: str, requests: Sequence[JinjaRequest]) -> list[str | RenderFailed]:
        task = {
            "template": template,
            "requests": [request.as_json() for request in requests],
            "cpu": self._cpu,
            "output": self._output,
        }
        try:
            line = json.dumps(task).encode("ascii") + b"\n"
        except (TypeError, ValueError) as error:
            raise TemplateError(f"The conversation is not plain JSON data: {error}.") from error
        results: list[str | RenderFailed] = []
        try:
            for reply in self._replies(line, len(requests)):
                results.append(_result(reply))
        except RenderFailed as death:
            self.close()
            self._condemned[template] = death
            results += [death] * (len(requests) - len(results))
        except BaseException:
            self.close()  # a half-read answer must not meet the next request
            raise
        return results

    def _replies(self, line: bytes, count: int) -> Iterator[dict[str, str]]:
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        pending = memoryview(line)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            deadline = time.monotonic() + self._wall
            while count:
                for key, _ in self._ready(selector, deadline):
                    if key.fileobj is process.stdin:
                        pending = self._write(process.stdin.fileno(), pending)
                        if not pending:
                            selector.unregister(process.stdin)
                        continue
                    for reply in self._read(process):
                        count -= 1
                        deadline = time.monotonic() + self._wall
                        yield reply

    def _ready(
        self, selector: selectors.DefaultSelector, deadline: float
    ) -> list[tuple[selectors.SelectorKey, int]]:
        ready = selector.select(max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RenderFailed(
                f"The chat template was stopped: it was not done after {self._wall:.0f} seconds.",
                kind="limit",
            )
        return ready

    def _write(self, descriptor: int, pending: memoryview) -> memoryview:
        try:
            return pending[os.write(descriptor, pending[:65536]) :]
        except BrokenPipeError:
            return pending[:0]  # the reading side tells why

    def _read(self, process: subprocess.Popen[bytes]) -> list[dict[str, str]]:
        assert process.stdout is not None
        chunk = os.read(process.stdout.fileno(), 1 << 20)
        if not chunk:
            raise self._death(process.wait())
        self._buffer += chunk
        if b"\n" not in chunk:
            return []
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        return [json.loads(line) for line in lines]

    def _death(self, code: int) -> RenderFailed:
        if code == -signal.SIGXCPU:
            reason = f"it used more than {self._cpu} seconds of processor time"
        else:
            reason = f"it ended its process ({_how(code)})"
        return RenderFailed(f"The chat template was stopped: {reason}.", kind="limit")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            script = Path(__file__).with_name("jinja_worker.py")
            # -P: the script's folder must not stand before the standard library on the import path.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                bufsize=0,
            )
        return self._process


def _result(reply: dict[str, str]) -> str | RenderFailed:
    if "text" in reply:
        return reply["text"]
    kind = reply["kind"]
    what = {
        "syntax": "The chat template is not valid Jinja",
        "raised": "The chat template refuses this conversation",
        "continue": "The final message cannot be continued",
        "limit": "The chat template was stopped",
        "unpredictable": "What llama.cpp makes of the chat template cannot be foretold",
    }.get(kind, "The chat template failed")
    return RenderFailed(f"{what}: {reply['error'].rstrip('.')}.", kind=kind)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


@functools.cache
def shared_worker() -> JinjaWorker:
    """Return the worker that the whole process shares; it ends with the process."""
    worker = JinjaWorker()
    atexit.register(worker.close)
    return worker
