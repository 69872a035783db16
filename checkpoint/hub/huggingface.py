"""Repositories of the Hugging Face Hub, through huggingface_hub: its cache, its endpoint, its tokens.

The library (2.4) verifies sizes only, and throws the part of a file that came away when its process ends. So
files are received here with the library's own `http_get`, under the name that they have in its cache
(`blobs/ETAG`), as `.incomplete` until their checksum is right. The library then finds them there and makes
the snapshot. Does not know what a checkpoint needs.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import logging
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils.tqdm import disable_progress_bars

from checkpoint.hub import problems
from checkpoint.hub.reference import HubReference
from checkpoint.hub.repository import Advance
from checkpoint.hub.selection import HubFile
from errors import HubError

__all__ = ["HuggingFaceRepository", "cached_snapshot"]

_WORKERS = 4
"""Files that are fetched at the same time."""
constants.DOWNLOAD_CHUNK_SIZE = 256 * 1024
"""Bytes. The library's 10 MB are lost when a connection breaks within them, and Ctrl-C waits for them."""


class _Stopped(Exception):
    """The download was given up while this file was on its way."""


class HuggingFaceRepository:
    """See `Repository`. With `output` the files go there under their own names, else into the hub's cache."""

    def __init__(self, reference: HubReference, output: Path | None) -> None:
        disable_progress_bars()
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        self.reference = reference
        self.output = output
        api = HfApi()
        with _translated(reference):
            self._commit = api.resolve_revision(reference.repo, revision=reference.revision)
            tree = api.list_repo_tree(reference.repo, revision=self._commit.resolved)
            self.files: Mapping[str, HubFile] = {
                entry.path: _hub_file(entry)
                for entry in tree
                if isinstance(entry, RepoFile) and "/" not in entry.path
            }
        self.revision: str = self._commit.resolved
        folder = repo_folder_name(repo_id=reference.repo, repo_type="model")
        self.directory = output or Path(constants.HF_HUB_CACHE) / folder / "blobs"

    def path(self, file: HubFile) -> Path:
        return self.directory / (file.name if self.output else file.etag or file.name)

    def present(self, file: HubFile) -> int:
        path = self.path(file)
        for found in (path, _partial(path)):
            with contextlib.suppress(OSError):
                return min(found.stat().st_size, file.size)
        return 0

    def download(self, files: Sequence[HubFile], advance: Advance) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        stop = threading.Event()
        with ThreadPoolExecutor(_WORKERS) as pool, _translated(self.reference):
            # files of the same content are one blob of the cache
            unique = {self.path(file): file for file in files}.values()
            futures = [pool.submit(self._fetch, file, advance, stop) for file in unique]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def finish(self, files: Sequence[HubFile]) -> Path:
        if self.output:
            return self.output
        names = [file.name for file in files]
        with _translated(self.reference):
            return Path(snapshot_download(self.reference.repo, revision=self._commit, allow_patterns=names))

    def _fetch(self, file: HubFile, advance: Advance, stop: threading.Event) -> None:
        path = self.path(file)
        if path.is_file() and path.stat().st_size == file.size and (not self.output or _sound(path, file)):
            return
        if file.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
            # such files are given out by the hub's own protocol (xet) only
            hf_hub_download(
                self.reference.repo, file.name, revision=self._commit, local_dir=self.output or None
            )
            return
        partial = _partial(path)
        for _ in range(2):
            self._receive(file, partial, advance, stop)
            if _sound(partial, file):
                partial.replace(path)
                return
            found = _checksum(partial, file)
            partial.unlink()
            advance(-file.size)
        reason = f"its checksum is {found[:16]}…, not {(file.etag or '')[:16]}…"
        raise problems.damaged(self.reference, file.name, reason)

    def _receive(self, file: HubFile, partial: Path, advance: Advance, stop: threading.Event) -> None:
        class Bar:
            """The little of a tqdm bar that the library uses."""

            def __init__(self, **_: object) -> None: ...

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: object) -> None: ...

            def update(self, count: int) -> None:
                if stop.is_set():
                    raise _Stopped
                advance(count)

        url = hf_hub_url(self.reference.repo, file.name, revision=self.revision)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        with partial.open("ab") as stream:
            if stream.tell() > file.size:
                stream.truncate(0)
            bar: Any = Bar
            http_get(
                url,
                stream,
                resume_size=stream.seek(0, 2),
                headers=headers,
                expected_size=file.size,
                tqdm_class=bar,
            )


def cached_snapshot(reference: HubReference) -> Path | None:
    """Return the snapshot in the cache, whole or not; None where there is none."""
    with contextlib.suppress(LocalEntryNotFoundError):
        path = snapshot_download(
            reference.repo,
            revision=reference.revision,
            allow_patterns=["config.json"],
            local_files_only=True,
        )
        return Path(path)
    return None


def _hub_file(entry: RepoFile) -> HubFile:
    if entry.lfs is not None:
        return HubFile(entry.path, entry.lfs.size, sha256=entry.lfs.sha256)
    return HubFile(entry.path, entry.size, git_blob=entry.blob_id)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".incomplete")


def _sound(path: Path, file: HubFile) -> bool:
    return _checksum(path, file) == file.etag


def _checksum(path: Path, file: HubFile) -> str:
    """Return the digest of a file's bytes in the form that the hub tells."""
    if file.sha256 is None:
        blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        blob.update(path.read_bytes())
        return blob.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _translated(reference: HubReference) -> Iterator[None]:
    """Turn the library's exceptions into ours."""
    try:
        yield
    except RevisionResolutionError as error:
        # what kept the library from asking is the cause; and it has no copy either
        raise _problem(reference, error.__cause__ or error) from error
    except (httpx2.HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise _problem(reference, error) from error


_KNOWN = {
    GatedRepoError: problems.gated,  # before the class that it is derived from
    RevisionNotFoundError: problems.no_revision,
    RepositoryNotFoundError: problems.not_found,
}


def _problem(reference: HubReference, error: BaseException) -> HubError:
    for kind, problem in _KNOWN.items():
        if isinstance(error, kind):
            return problem(reference)
    if isinstance(error, HfHubHTTPError):
        return _refusal(reference, error)
    if isinstance(error, OfflineModeIsEnabled):
        return problems.unreachable(reference, constants.ENDPOINT, "HF_HUB_OFFLINE is set")
    if isinstance(error, (httpx2.TransportError, LocalEntryNotFoundError)):
        return problems.unreachable(reference, constants.ENDPOINT, error)
    return problems.rejected(reference, error)


def _refusal(reference: HubReference, error: HfHubHTTPError) -> HubError:
    status = error.response.status_code
    if status == 429:
        wait = error.response.headers.get("retry-after", "")
        return problems.RateLimited(reference, float(wait) if wait.isdigit() else None)
    if status == 401:
        return problems.refused_token(reference)
    if status == 403:
        return problems.gated(reference)
    return problems.server_error(reference, status)
