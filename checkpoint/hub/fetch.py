"""`fetch`: from the name of a checkpoint on a hub to a directory on this machine.

The directory carries the model's own name whatever the hub's cache looks like. Does not know the protocols.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint.hub.problems import Notify, Unreachable, patiently
from checkpoint.hub.reference import HubReference
from checkpoint.hub.repository import Repository, require_space
from checkpoint.hub.selection import HubFile, shards, small_files, weight_index, weights_elsewhere
from checkpoint.jsonfile import MEGABYTE, read_object
from errors import HubError, OutputError
from files import cache_dir

__all__ = ["Fetched", "fetch"]

Progress = Callable[[int, int], None]
"""Called with (bytes here, bytes in all)."""


@dataclass(frozen=True)
class Fetched:
    """A checkpoint that is here now."""

    reference: HubReference
    path: Path
    revision: str
    """The commit, where the hub has one."""
    files: tuple[str, ...]
    bytes: int
    downloaded: int
    """Bytes that were not here before."""
    weights: bool
    """Whether the weights are here too."""
    offline: bool = False
    """The hub could not be asked: this is the copy of an earlier time."""

    def as_json(self) -> dict[str, Any]:
        return {
            "repo": self.reference.repo,
            "hub": self.reference.hub,
            "revision": self.revision,
            "path": str(self.path),
            "files": list(self.files),
            "bytes": self.bytes,
            "downloaded": self.downloaded,
            "weights": self.weights,
            "offline": self.offline,
        }


def fetch(
    reference: HubReference,
    *,
    weights: bool = True,
    output: Path | None = None,
    progress: Progress | None = None,
    notify: Notify = lambda text: None,
) -> Fetched:
    """Fetch the files that a checkpoint needs; return where they are.

    Without `output` they go into the hub's own cache, which its other users share. What is there already is
    not fetched again, a file that was interrupted goes on where it stopped. Raises `HubError`; `OutputError`
    when the disk is too small or cannot be written.
    """
    with _alone(reference, output):
        try:
            repository = patiently(lambda: _open(reference, output), notify)
        except Unreachable as error:
            found = None if output else _from_cache(reference, weights)
            if found is None:
                raise
            notify(f"{error.message} Using the copy that was fetched earlier.")
            return found
        try:
            return _Fetching(repository, progress or (lambda done, total: None), notify).run(
                reference, weights, output
            )
        except OSError as error:
            raise OutputError(
                f"Cannot write to {repository.directory}: {error.strerror or error}.",
                hint="Choose another place with -o DIR (or HF_HOME, MODELSCOPE_CACHE).",
            ) from error


class _Fetching:
    """One download: first what is small, then the weights that the index names."""

    def __init__(self, repository: Repository, progress: Progress, notify: Notify) -> None:
        self.repository = repository
        self.progress = progress
        self.notify = notify
        self.downloaded = 0

    def run(self, reference: HubReference, weights: bool, output: Path | None) -> Fetched:
        repository = self.repository
        if "config.json" not in repository.files:
            raise _no_checkpoint(reference, list(repository.files), "no config.json")
        single, index = weight_index(repository.files)
        if weights and single is None and index is None:
            raise _no_checkpoint(reference, list(repository.files), "no weights in safetensors or .bin")
        small = small_files(repository.files)
        wanted = [*small, *([index] if weights and index else ())]
        self._get(wanted)
        if weights:
            wanted += [single] if single else self._shards(reference, index)
            self._get(wanted)
        directory = repository.finish(wanted)
        return Fetched(
            reference,
            output or _named(reference, directory),
            repository.revision,
            tuple(file.name for file in wanted),
            sum(file.size for file in wanted),
            self.downloaded,
            weights,
        )

    def _shards(self, reference: HubReference, index: HubFile | None) -> list[HubFile]:
        assert index is not None
        found, missing = shards(self.repository.files, _weight_map(self.repository.path(index)))
        if missing:
            raise HubError(
                f"{reference} lacks {missing[0]}, which its {index.name} names.",
                hint="The upload is incomplete: ask its authors, or name an older revision.",
            )
        return found

    def _get(self, files: Sequence[HubFile]) -> None:
        total = sum(file.size for file in files)
        done = sum(self.repository.present(file) for file in files)
        require_space(self.repository.directory, total - done)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.downloaded += count
            self.progress(done, total)

        self.progress(done, total)
        patiently(lambda: self.repository.download(files, advance), self.notify)


def _open(reference: HubReference, output: Path | None) -> Repository:
    with _silent_tqdm():
        if reference.hub == "modelscope":
            from checkpoint.hub.modelscope import ModelScopeRepository

            return ModelScopeRepository(reference, output)
        from checkpoint.hub.huggingface import HuggingFaceRepository

        return HuggingFaceRepository(reference, output)


@contextmanager
def _silent_tqdm() -> Iterator[None]:
    """Keep the bars of the libraries away from ours: tqdm reads this variable when it is first imported."""
    given = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        del os.environ["TQDM_DISABLE"]
        if given is not None:
            os.environ["TQDM_DISABLE"] = given


def _from_cache(reference: HubReference, weights: bool) -> Fetched | None:
    """Return the copy in the hub's cache, if all of it is there."""
    if reference.hub == "modelscope":
        from checkpoint.hub.modelscope import cached_snapshot
    else:
        from checkpoint.hub.huggingface import cached_snapshot
    directory = cached_snapshot(reference)
    if directory is None:
        return None
    files = {entry.name: HubFile(entry.name, entry.stat().st_size) for entry in directory.iterdir()}
    single, index = weight_index(files)
    wanted = small_files(files)
    if weights:
        found, missing = shards(files, _weight_map(directory / index.name)) if index else ([], [])
        wanted += [single] if single else [*([index] if index else ()), *found]
        if missing or (single is None and index is None):
            return None
    if "config.json" not in files:
        return None
    size = sum(file.size for file in wanted)
    names = tuple(file.name for file in wanted)
    revision = directory.name
    return Fetched(reference, _named(reference, directory), revision, names, size, 0, weights, offline=True)


def _weight_map(path: Path) -> Mapping[str, str]:
    raw = (read_object(path, 64 * MEGABYTE) or {}).get("weight_map")
    good = isinstance(raw, dict) and all(isinstance(name, str) for name in raw.values())
    if not good or not raw:
        raise HubError(f"{path} has no weight_map.", hint="The upload is damaged: ask its authors.")
    return {str(key): str(value) for key, value in raw.items()}


def _named(reference: HubReference, directory: Path) -> Path:
    """Return a link to `directory` with the model's own name: servers are called after it."""
    place = f"{reference.repo}@{reference.revision or 'newest'}".replace("/", "--")
    link = cache_dir() / "hub" / reference.hub / place / reference.name
    if link.is_symlink() and link.resolve() == directory.resolve():
        return link
    link.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".link.", dir=link.parent) as name:
        fresh = Path(name) / reference.name
        fresh.symlink_to(directory.resolve())
        fresh.replace(link)
    return link


@contextmanager
def _alone(reference: HubReference, output: Path | None) -> Iterator[None]:
    """Let one process at a time fetch the same thing: two would write the same partial files."""
    what = f"{reference.hub}:{reference.repo}:{output and output.absolute()}"
    path = cache_dir() / "hub" / "locks" / hashlib.sha256(what.encode()).hexdigest()[:16]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise OutputError(
            f"Cannot write to the cache {path.parent}: {error.strerror}.",
            hint="Set PORTSIDE_CACHE to a directory that you may write to.",
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _no_checkpoint(reference: HubReference, names: Sequence[str], what: str) -> HubError:
    others = weights_elsewhere(names)
    if "adapter_config.json" in names:
        hint = "It is a LoRA adapter: name the base model, and give the adapter's directory with --adapter."
    elif others:
        hint = f"It has {', '.join(others[:3])}: look for the repository that this was made from."
    else:
        hint = "Name the repository of a merged checkpoint in the Hugging Face format."
    return HubError(f"{reference} has {what}, so it is not a checkpoint that can be used.", hint=hint)
