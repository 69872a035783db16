"""The load: what it sends, what it counts, and what it says when a server fails."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli import main
from deploy.load import Load, Request, make_prompt, run_load, summarize
from errors import CheckFailed

PIECES = 5
PAUSE = 0.004


class Stream(BaseHTTPRequestHandler):
    """Streams `PIECES` pieces; every `fail`-th question is answered with HTTP 500, every `cut`-th breaks."""

    asked: list[dict[str, Any]]
    connections: set[str | None]
    owner = "vllm"
    usage = True
    fail = cut = 0
    under_way = most = 0
    lock = threading.Lock()

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": "fake", "owned_by": self.owner, "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = type(self)
        with kind.lock:
            kind.asked.append(body)
            kind.connections.add(self.headers["Connection"])
            number = len(kind.asked)
            kind.under_way += 1
            kind.most = max(kind.most, kind.under_way)
        try:
            if kind.fail and number % kind.fail == 0:
                self.reply(500, {"error": {"message": "out of memory"}})
            else:
                self.stream(cut=bool(kind.cut and number % kind.cut == 0))
        finally:
            with kind.lock:
                kind.under_way -= 1

    def reply(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, *, cut: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number in range(PIECES):
            time.sleep(PAUSE)
            if cut and number == 2:
                self.send({"error": {"message": "the engine died"}})
                return
            self.send({"choices": [{"index": 0, "delta": {"content": f"w{number} "}}]})
        if self.usage:
            counts = {"prompt_tokens": 40, "completion_tokens": 2 * PIECES, "total_tokens": 50}
            self.send({"choices": [], "usage": counts})
        self.wfile.write(b"data: [DONE]\n\n")

    def send(self, chunk: dict[str, Any]) -> None:
        whole = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "fake", **chunk}
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(b"data: " + json.dumps(whole).encode() + b"\n\n")


@pytest.fixture
def server() -> Iterator[tuple[str, type[Stream]]]:
    handler: type[Stream] = type("Handler", (Stream,), {"asked": [], "connections": set()})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_address[1]}", handler
    http.shutdown()
    http.server_close()
    thread.join()


def test_every_level_is_asked_and_counted(server: tuple[str, type[Stream]]) -> None:
    url, handler = server
    load = Load(concurrencies=(1, 3), requests=4, prompt_words=5, max_tokens=7, seed=3)
    found = run_load(url, load)
    assert (found.model, found.server, found.ignore_eos, found.interrupted) == ("fake", "vllm", True, False)
    assert [(each.concurrency, each.requests) for each in found.levels] == [(1, 4), (3, 6)]
    assert handler.most == 3
    assert len(handler.asked) == 2 + 4 + 6
    assert handler.asked[0]["max_tokens"] == 7
    assert handler.asked[0]["ignore_eos"] is True
    for level in found.levels:
        assert level.errors == {}
        assert level.counted
        assert level.tokens == level.requests * 2 * PIECES
        assert level.prompt_tokens == 40
        first, gap = level.time_to_first_token["p50"], level.inter_token["p50"]
        assert first is not None
        assert gap is not None
        assert first >= PAUSE
        assert level.latency["p99"] is not None
        assert level.tokens_per_second == pytest.approx(level.tokens / level.seconds)
    prompts = [body["messages"][0]["content"] for body in handler.asked]
    assert len({prompt.split()[0] for prompt in prompts}) == len(prompts)
    assert set(prompts) == {make_prompt(load, number) for number in range(12)}


def test_errors_are_counted_and_kept_out_of_the_figures(server: tuple[str, type[Stream]]) -> None:
    url, handler = server
    handler.fail, handler.cut = 4, 5
    (level,) = run_load(url, Load(concurrencies=(2,), requests=18, prompt_words=3)).levels
    assert level.requests == 18
    assert sorted(level.errors.values()) == [3, 5]
    assert any("out of memory" in reason for reason in level.errors)
    assert any("the engine died" in reason for reason in level.errors)
    assert level.tokens == 10 * 2 * PIECES


def test_a_server_that_neither_counts_nor_ignores_the_end(server: tuple[str, type[Stream]]) -> None:
    url, handler = server
    handler.owner, handler.usage = "library", False
    found = run_load(url, Load(concurrencies=(1,), requests=2, prompt_words=3))
    assert not found.ignore_eos
    assert "ignore_eos" not in handler.asked[0]
    assert not found.levels[0].counted
    assert found.levels[0].tokens == 2 * PIECES


@pytest.mark.parametrize(("owner", "connection"), [("llamacpp", "close"), ("vllm", "keep-alive")])
def test_a_connection_that_the_server_would_close_is_not_used_again(
    server: tuple[str, type[Stream]], owner: str, connection: str
) -> None:
    url, handler = server
    handler.owner = owner
    (level,) = run_load(url, Load(concurrencies=(1,), requests=3, prompt_words=3)).levels
    assert handler.connections == {connection}
    assert not level.errors


def test_ctrl_c_gives_what_there_is(server: tuple[str, type[Stream]]) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what.startswith("1 ") and done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    load = Load(concurrencies=(1, 2), requests=50, prompt_words=3)
    found = run_load(server[0], load, progress=interrupt)
    assert found.interrupted
    assert [each.concurrency for each in found.levels] == [1]
    assert 3 <= found.levels[0].requests < 50
    assert found.levels[0].errors == {}


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(CheckFailed, match="lists no model"):
        run_load("http://127.0.0.1:9", Load())


def test_percentiles_are_values_that_were_seen() -> None:
    requests = [Request(i / 10, i / 100, (), 1, None, True) for i in range(1, 101)]
    level = summarize(1, requests, 10.0)
    assert level.latency == {"mean": pytest.approx(5.05), "p50": 5.0, "p90": 9.0, "p99": 9.9}
    assert level.inter_token["p50"] is None
    assert level.requests_per_second == 10.0


def test_the_command_writes_a_figure_and_fails_for_errors(
    server: tuple[str, type[Stream]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = server
    plot = tmp_path / "load.png"
    words = ["bench", url, "-c", "1", "-c", "2", "--requests", "2", "--prompt-words", "3"]
    done = CliRunner().invoke(main, [*words, "--plot", str(plot), "--json"])
    assert done.exit_code == 0, done.output
    assert [level["concurrency"] for level in json.loads(done.stdout)["levels"]] == [1, 2]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(main, [*words, "--plot", "load.doc"]).exit_code == 2
    handler.fail = 2
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 1
    assert "clients" in shown.output
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    missing = CliRunner().invoke(main, [*words, "--plot", str(plot)])
    assert missing.exit_code == 4
    assert "portside[plot]" in missing.output
