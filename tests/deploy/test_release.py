"""Fetching Ollama's release from a real server: resumed, checked, from the next source where one fails."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import zstandard

from deploy.engines.environments import find_program
from deploy.engines.ollama import PLACE
from deploy.install import plan_install, run_install
from deploy.install.release import SOURCES
from errors import EngineMissing
from tests.deploy.test_install import Silent

PROGRAM = b"#!/bin/sh\necho ollama version is 0.99\n"


def release(**more: bytes) -> bytes:
    """Return a tar with bin/ollama, a library and what else is asked for."""
    memory = io.BytesIO()
    files = {"bin/ollama": PROGRAM, "lib/ollama/libggml-cpu.so": b"x" * 300_000, **more}
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return memory.getvalue()


class Site(ThreadingHTTPServer):
    """A server of files with ETags and ranges; the first `breaks` answers end in the middle."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.breaks = 0
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        content = self.server.files.get(self.path.lstrip("/"))
        if content is None:
            self.send_error(404)
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        resumed = wanted is not None and self.headers.get("If-Range") == etag
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if resumed and wanted else 0
        if resumed and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if resumed else 200)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if self.server.breaks:
            self.server.breaks -= 1
            end = start + (end - start) // 2
        self.wfile.write(content[start:end])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("PORTSIDE_OLLAMA", raising=False)
    monkeypatch.chdir(tmp_path)
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def install(url: str, sha256: str | None = None) -> Path:
    plan = plan_install("ollama", url=url, sha256=sha256)
    run_install(plan, Silent())
    return plan.path


@pytest.mark.parametrize("packed", ["tgz", "tar.zst"])
def test_it_is_unpacked_and_found(site: Site, packed: str) -> None:
    pack = gzip.compress if packed == "tgz" else zstandard.ZstdCompressor().compress
    content = site.files[f"ollama.{packed}"] = pack(release())
    path = install(site.url + f"ollama.{packed}", hashlib.sha256(content).hexdigest())
    found, _ = find_program(PLACE)
    assert found == str(path / "bin" / "ollama")
    assert b"0.99" in subprocess.run([found], capture_output=True, check=True, env={"PATH": "/bin"}).stdout
    assert (path / "lib/ollama/libggml-cpu.so").stat().st_size == 300_000
    assert not list((path.parent.parent / "downloads").iterdir()), "the tarball is not kept"
    marked = path / "marked"
    marked.touch()
    again = plan_install("ollama", url=site.url + f"ollama.{packed}")
    assert run_install(again, Silent()).already
    assert len(site.asked) == 1
    assert marked.exists()
    assert not run_install(again, Silent(), again=True).already
    assert not marked.exists()


def test_it_goes_on_where_it_broke_off(site: Site) -> None:
    site.files["ollama.tar"] = release()
    site.breaks = 2
    install(site.url + "ollama.tar")
    total = len(site.files["ollama.tar"])
    half, quarter = total // 2, (total - total // 2) // 2
    assert [wanted for _, wanted in site.asked] == [None, f"bytes={half}-", f"bytes={half + quarter}-"]


def test_another_file_under_the_same_name_is_begun_anew(site: Site) -> None:
    site.files["ollama.tar"] = release(old=b"1" * 100_000)
    site.breaks = 9
    with pytest.raises(EngineMissing, match="the connection broke"):
        install(site.url + "ollama.tar")
    site.breaks = 0
    site.files["ollama.tar"] = release(new=b"2")
    assert (install(site.url + "ollama.tar") / "new").read_bytes() == b"2"


def test_the_next_source_is_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.install.plan.platform.machine", lambda: "x86_64")
    monkeypatch.setitem(SOURCES, "ollama", "http://127.0.0.1:9/download/")  # nothing listens there
    monkeypatch.setitem(SOURCES, "modelscope", site.url)
    site.files["ollama-linux-amd64.tgz"] = gzip.compress(release())
    run_install(plan_install("ollama"), Silent())
    assert [path for path, _ in site.asked] == ["/ollama-linux-amd64.tar.zst", "/ollama-linux-amd64.tgz"]


def test_a_slow_source_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.install.plan.platform.machine", lambda: "x86_64")
    monkeypatch.setattr("deploy.install.download.PATIENCE", 0.0)
    monkeypatch.setattr("deploy.install.download.SLOW", 1e15)
    monkeypatch.setitem(SOURCES, "ollama", site.url)
    monkeypatch.setitem(SOURCES, "modelscope", site.url.replace("127.0.0.1", "localhost") + "modelscope/")
    site.files["ollama-linux-amd64.tar.zst"] = b"whatever"
    site.files["modelscope/ollama-linux-amd64.tgz"] = gzip.compress(release())
    run_install(plan_install("ollama"), Silent())
    assert site.asked[-1][0] == "/modelscope/ollama-linux-amd64.tgz"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "HTTP 404"),
        (b"<html>", "damaged, or no tarball"),
        (gzip.compress(release(), 0)[:-2000], "damaged"),
        (release()[:200_000], "damaged, or no tarball"),
        (release(**{"../../escaped": b"x"}), "damaged, or no tarball"),
    ],
    ids=["missing", "text", "cut gzip", "cut tar", "outside"],
)
def test_what_is_no_release(site: Site, tmp_path: Path, content: bytes | None, match: str) -> None:
    if content is not None:
        site.files["ollama.tgz"] = content
    with pytest.raises(EngineMissing, match=match):
        install(site.url + "ollama.tgz")
    assert not (tmp_path / "cache" / "engines" / "ollama").exists()
    assert not list(tmp_path.rglob("escaped"))


def test_another_sha256(site: Site) -> None:
    site.files["ollama.tgz"] = gzip.compress(release())
    with pytest.raises(EngineMissing, match="its SHA-256 is"):
        install(site.url + "ollama.tgz", "0" * 64)
