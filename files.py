"""Files that are never half-written, and the cache directory.

Knows: a temporary file or directory beside the target, renamed when complete, removed on any failure.
Does not know: what is written.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from errors import OutputError

__all__ = ["cache_dir", "dump_json", "replacing", "replacing_all", "replacing_directory", "write_text"]

_REASONS = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EFBIG: "the file would be larger than the file system or the shell's limit allows",
}


def cache_dir() -> Path:
    """Return `$PORTSIDE_CACHE`, or `portside` below `$XDG_CACHE_HOME` (default `~/.cache`)."""
    named = os.environ.get("PORTSIDE_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "portside"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing; rename it to `path` when the block ends well.

    Whatever else happens (an exception, a full disk, Ctrl-C) the temporary file is removed and an older
    file under the final name stays as it was. Raises `OutputError` where the system refuses to write.
    """
    with replacing_all([path]) as (stream,):
        yield stream


@contextlib.contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Do as `replacing` for files that belong together: none gets its name before all are on the disk."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_partial(path)) for path in paths]
        yield [stream for stream, _ in opened]
        for path, (stream, _) in zip(paths, opened, strict=True):
            with _as_output_error(path):
                stream.flush()
                os.fsync(stream.fileno())
                stream.close()
        _rename(paths, [partial for _, partial in opened])


def _rename(paths: Sequence[Path], partials: Sequence[Path]) -> None:
    renamed: list[Path] = []
    try:
        for path, partial in zip(paths, partials, strict=True):
            with _as_output_error(path):
                partial.chmod(0o666 & ~_umask())
                partial.replace(path)
            renamed.append(path)
    except BaseException:
        for path in renamed:  # a part of what belongs together is worth nothing
            path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Make a file beside `path` that is gone when the block ends, unless it got another name."""
    with _as_output_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    partial = Path(name)
    try:
        with _as_output_error(path), os.fdopen(handle, "wb") as stream:
            yield stream, partial
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; rename it to `path` when the block ends well.

    An existing `path` is replaced as a whole. On any failure the temporary directory is removed.
    """
    with _as_output_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        with _as_output_error(path):
            yield partial
            partial.chmod(0o777 & ~_umask())
            if path.is_dir() and not path.is_symlink():
                old = partial.with_suffix(".old")
                path.rename(old)
                partial.rename(path)
                shutil.rmtree(old)
            else:
                partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` in one step, with no newline translation."""
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


def dump_json(value: Any) -> str:
    """Return `value` as indented JSON text with a final newline; non-ASCII characters are kept."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


@contextlib.contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise OutputError(
            f"Cannot write {path}: {reason}.",
            hint="Free some space or choose another place with -o; nothing was left under the final name.",
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
