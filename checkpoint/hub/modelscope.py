"""Repositories of ModelScope, through modelscope-hub: its cache, its endpoint, its tokens.

That package is what modelscope's own `snapshot_download` calls, without modelscope's 70 MB. It resumes
(`.incomplete`), verifies SHA-256 and tries a file again by itself. Does not know what a checkpoint needs.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modelscope_hub import HubApi, HubConfig, ProgressCallback
from modelscope_hub import errors as hub_errors

from checkpoint.hub import problems
from checkpoint.hub.reference import HubReference
from checkpoint.hub.repository import Advance
from checkpoint.hub.selection import HubFile

if TYPE_CHECKING:
    from modelscope_hub._download import DownloadManager

__all__ = ["ModelScopeRepository", "cached_snapshot"]

_DEFAULT_REVISION = "master"


class ModelScopeRepository:
    """See `Repository`. With `output` the files go there, else into ModelScope's cache."""

    def __init__(self, reference: HubReference, output: Path | None) -> None:
        self.reference = reference
        self.output = output
        self.revision = reference.revision or _DEFAULT_REVISION
        self._config = _config()
        with _translated(reference, self._config):
            endpoint = HubApi(config=self._config).resolve_endpoint_for_read(reference.repo)
            self._config = _config(endpoint)
            self._api = HubApi(config=self._config)
            found = self._api.list_repo_files(
                reference.repo, "model", revision=self.revision, recursive=False
            )
        self.files: Mapping[str, HubFile] = {
            file.path: HubFile(file.path, file.size, sha256=file.sha256)
            for file in found
            if not file.is_dir and "/" not in file.path
        }
        if output:
            self.directory = output
        else:
            place = Path(self._config.cache_dir) / "models" / reference.repo.replace("/", "--")
            self.directory = place / "snapshots" / self.revision

    def path(self, file: HubFile) -> Path:
        return self.directory / file.name

    def present(self, file: HubFile) -> int:
        path = self.path(file)
        for found in (path, path.with_name(path.name + ".incomplete")):
            with contextlib.suppress(OSError):
                return min(found.stat().st_size, file.size)
        return 0

    def download(self, files: Sequence[HubFile], advance: Advance) -> None:
        lock = threading.Lock()
        here = {file.name: self.present(file) for file in files}

        class Told(ProgressCallback):
            def __init__(self, filename: str, file_size: int) -> None:
                super().__init__(filename, file_size)
                self.known = here[filename]

            def update(self, size: int) -> None:
                # it begins with what an earlier download left
                known = max(min(self.known, size), 0)
                self.known -= known
                with lock:
                    advance(size - known)

        listing = [{"Path": file.name, "Sha256": file.sha256, "Size": file.size} for file in files]
        manager: DownloadManager = self._api.downloader
        with _translated(self.reference, self._config):
            place = manager.download_repo(
                self.reference.repo,
                "model",
                revision=self.revision,
                local_dir=self.output,
                file_list=listing,
                progress_callbacks=[Told],
            )
        self.directory = Path(place)  # a cache of an older modelscope is used where there is one

    def finish(self, files: Sequence[HubFile]) -> Path:
        return self.directory


def cached_snapshot(reference: HubReference) -> Path | None:
    """Return the snapshot in the cache, whole or not; None where there is none."""
    with contextlib.suppress(hub_errors.CacheNotFound):
        found = HubApi(config=_config()).download_repo(
            reference.repo, "model", revision=reference.revision, local_files_only=True
        )
        return Path(found)
    return None


def _config(endpoint: str | None = None) -> HubConfig:
    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        # MODELSCOPE_DOMAIN is the name that users know; the library calls it deprecated
        warnings.simplefilter("ignore", FutureWarning)
        return HubConfig(endpoint=endpoint)


@contextlib.contextmanager
def _translated(reference: HubReference, config: HubConfig) -> Iterator[None]:
    """Turn the library's exceptions into ours."""
    try:
        yield
    except hub_errors.FileDownloadError as error:
        name, cause = next(iter(error.failed_files.items()))
        raise _refusal(reference, config, cause, name) from error
    except hub_errors.HubError as error:
        raise _refusal(reference, config, error) from error


def _refusal(
    reference: HubReference, config: HubConfig, error: BaseException, name: str = ""
) -> BaseException:
    known = {
        hub_errors.AuthenticationError: problems.refused_token,
        hub_errors.PermissionDeniedError: problems.gated,
        hub_errors.NotExistError: problems.no_revision if reference.revision else problems.not_found,
    }
    for kind, problem in known.items():
        if isinstance(error, kind):
            return problem(reference)
    if isinstance(error, hub_errors.RateLimitError):
        return problems.RateLimited(reference, error.retry_after)
    if isinstance(error, hub_errors.FileIntegrityError):
        return problems.damaged(reference, name, error.message)
    if isinstance(error, hub_errors.NetworkError):
        return problems.unreachable(reference, str(config.endpoint), error.message)
    if isinstance(error, hub_errors.APIError) and error.status_code:
        return problems.server_error(reference, error.status_code)
    return error if isinstance(error, OSError) else problems.rejected(reference, error)
