"""The SHA-256 of large files in the cache, computed once.

It is kept beside the file, with the size, the time of change and the inode that the file had: a file that was
written anew has another of these, and is hashed again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from errors import BadInput, OutputError
from files import dump_json, write_text

__all__ = ["digest_file", "file_digest", "remember_digest"]


def digest_file(path: Path) -> Path:
    """Return where the digest of `path` is kept."""
    return path.with_name(path.name + ".sha256.json")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of `path` in hexadecimal digits. Raises `BadInput` if it cannot be read."""
    try:
        known = json.loads(digest_file(path).read_text(encoding="utf-8"))
        if known["file"] == _identity(path):
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not hashed yet, or another file by now
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"Cannot read {path}: {error.strerror}.") from error
    remember_digest(path, digest)
    return digest


def remember_digest(path: Path, digest: str) -> None:
    """Keep the digest of `path` for the next time, where that can be written."""
    try:
        write_text(digest_file(path), dump_json({"sha256": digest, "file": _identity(path)}))
    except (OSError, OutputError):
        return  # a read-only directory costs time, nothing else


def _identity(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"bytes": status.st_size, "changed": status.st_mtime_ns, "inode": status.st_ino}
