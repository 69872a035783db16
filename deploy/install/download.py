"""Fetch Ollama's release: resumed where it broke off, checked, unpacked without root.

The tarball is kept in the cache until it is unpacked, so that a second try goes on. A source that cannot be
reached, has no such file, or is too slow is left for the next one. Does not know which sources there are.
"""

from __future__ import annotations

import hashlib
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import httpx

from deploy.install.release import FILES_OF_MODELSCOPE, Release
from errors import EngineMissing, OutputError
from files import cache_dir

__all__ = ["fetch_release"]

SLOW = 300e3
"""Bytes a second below which another source is tried: a release would take more than an hour."""
PATIENCE = 15.0
"""Seconds after which a source is judged."""
_TRIES = 4


class _View(Protocol):
    def step(self, what: str) -> None: ...
    def bytes(self, done: int, total: int) -> None: ...


class _Unavailable(Exception):
    """Why a source was left."""


@dataclass(frozen=True)
class _Partial:
    """What is kept of a download: the bytes, and which file they are of (ETag, or Last-Modified)."""

    data: Path

    @property
    def mark(self) -> Path:
        return self.data.with_name(self.data.name + ".etag")

    def size(self) -> int:
        return self.data.stat().st_size if self.data.exists() and self.mark.exists() else 0

    def forget(self) -> None:
        self.data.unlink(missing_ok=True)
        self.mark.unlink(missing_ok=True)


def fetch_release(release: Release, directory: Path, view: _View) -> None:
    """Unpack the release into `directory`; raises `EngineMissing` with what each source said."""
    said: list[str] = []
    for number, url in enumerate(release.urls, 1):
        impatient = any(_host(other) != _host(url) for other in release.urls[number:])
        try:
            partial = _download(url, view, impatient=impatient)
            _check(partial, url, release.sha256)
        except _Unavailable as reason:
            said.append(f"{url}: {reason}")
            continue
        view.step(f"Unpacking {url.rpartition('/')[2]}")
        _unpack(partial.data, directory)
        partial.forget()
        return
    reasons = "".join(f"\n    {line}" for line in said)
    raise EngineMissing(
        f"Ollama could not be fetched:{reasons}",
        hint="Try another source with --from, or --url with the address of a tarball; what has come is kept.",
    )


def _download(url: str, view: _View, *, impatient: bool) -> _Partial:
    """Fetch `url` into the cache. `impatient`: there is another source, a slow one is left."""
    view.step(f"Downloading {url}")
    folder = cache_dir() / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(url.encode()).hexdigest()[:8]
    partial = _Partial(folder / f"{key}-{url.rpartition('/')[2]}")
    for attempt in range(1, _TRIES + 1):
        before = partial.size()
        try:
            _receive(url, partial, view, impatient=impatient)
            return partial
        except (httpx.TimeoutException, httpx.RemoteProtocolError, httpx.ReadError) as error:
            if attempt == _TRIES or (partial.size() == before and attempt > 1):
                raise _Unavailable(f"the connection broke ({type(error).__name__})") from error
            time.sleep(0.2 * attempt)
        except httpx.HTTPError as error:
            raise _Unavailable(str(error) or type(error).__name__) from error
    raise AssertionError("unreachable")


def _receive(url: str, partial: _Partial, view: _View, *, impatient: bool) -> None:
    """One request; what is there already is not asked for again, if it is of the same file."""
    have = partial.size()
    headers = {"Range": f"bytes={have}-", "If-Range": partial.mark.read_text()} if have else {}
    timeout = httpx.Timeout(30.0, connect=10.0)
    with httpx.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as reply:
        if reply.status_code == 416:
            if reply.headers.get("content-range") == f"bytes */{have}":
                return  # all of it is there already
            partial.forget()
            raise httpx.RemoteProtocolError("the kept part does not fit")
        if reply.status_code not in (200, 206):
            raise _Unavailable(f"HTTP {reply.status_code}")
        if reply.headers.get("content-type", "").startswith("text/html"):
            raise _Unavailable("a web page came instead of a file")
        if reply.status_code == 200:
            have = 0
        total = have + int(reply.headers.get("content-length") or 0)
        mark = reply.headers.get("etag") or reply.headers.get("last-modified")
        try:
            with partial.data.open("ab" if have else "wb") as stream:
                if mark and not mark.startswith("W/"):
                    partial.mark.write_text(mark)
                _copy(reply, stream, have, total, view, slowest=SLOW if impatient else 0.0)
        except OSError as error:
            raise OutputError(f"Cannot write {partial.data}: {error.strerror}.") from error
    if total and partial.data.stat().st_size != total:
        raise httpx.RemoteProtocolError("the answer was cut short")


def _copy(
    reply: httpx.Response, stream: BinaryIO, have: int, total: int, view: _View, *, slowest: float
) -> None:
    began, done = time.monotonic(), have
    for chunk in reply.iter_raw():
        stream.write(chunk)
        done += len(chunk)
        view.bytes(done, total)
        seconds = time.monotonic() - began
        if slowest and seconds > PATIENCE and (done - have) / seconds < slowest:
            raise _Unavailable(f"too slow: {(done - have) / seconds / 1e3:.0f} kB/s")


def _check(partial: _Partial, url: str, expected: str | None) -> None:
    """Compare the SHA-256 with what the user or the source says; without either there is nothing to say."""
    expected = expected or _sha256_of_modelscope(url)
    if expected is None:
        return
    with partial.data.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected.lower():
        partial.forget()
        raise _Unavailable(f"its SHA-256 is {found}, not {expected}")


def _sha256_of_modelscope(url: str) -> str | None:
    if "/modelscope/ollama-linux/" not in url:
        return None
    try:
        files = httpx.get(FILES_OF_MODELSCOPE, timeout=10.0).json()["Data"]["Files"]
        return next(str(file["Sha256"]) for file in files if file["Name"] == url.rpartition("/")[2])
    except (httpx.HTTPError, ValueError, KeyError, TypeError, StopIteration):
        return None


def _unpack(tarball: Path, directory: Path) -> None:
    """Unpack into `directory`, and nowhere else; raises `EngineMissing` for what is no release."""
    with tarball.open("rb") as stream:
        opened = _decompressed(stream)
        try:
            with tarfile.open(fileobj=opened, mode="r|") as archive:
                archive.extractall(directory, filter="data")
        except (tarfile.TarError, EOFError, ValueError, RuntimeError) as error:
            tarball.unlink(missing_ok=True)
            raise EngineMissing(
                f"{tarball.name} is damaged, or no tarball ({error}).", hint="Fetch it again."
            ) from error
        except OSError as error:
            if error.errno is None:  # gzip's BadGzipFile
                tarball.unlink(missing_ok=True)
                raise EngineMissing(
                    f"{tarball.name} is damaged ({error}).", hint="Fetch it again."
                ) from error
            raise
    program = directory / "bin" / "ollama"
    if not program.is_file():
        raise EngineMissing(f"{tarball.name} holds no bin/ollama.", hint="Is it a release of Ollama?")
    program.chmod(program.stat().st_mode | 0o111)


def _decompressed(stream: BinaryIO) -> BinaryIO:
    """Return the tar inside, by the first bytes."""
    magic = stream.read(4)
    stream.seek(0)
    if magic == b"\x28\xb5\x2f\xfd":
        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
        return cast("BinaryIO", reader)
    if magic[:2] == b"\x1f\x8b":
        import gzip

        return cast("BinaryIO", gzip.open(stream))
    return stream


def _host(url: str) -> str:
    return httpx.URL(url).host
