"""Reading small files of a checkpoint without trusting them.

Knows: size limits, what counts as a regular file, UTF-8, and everything that can be wrong with JSON. Every
failure is a `CheckpointFlaw` that names the file. Does not know what any file means.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from checkpoint.findings import CheckpointFlaw

__all__ = ["MEGABYTE", "file_size", "parse_object", "read_bytes", "read_object", "read_text"]

MEGABYTE = 1 << 20

_COPY_AGAIN = "Copy the file again from where the checkpoint was saved, or save the checkpoint again."


def file_size(path: Path) -> int | None:
    """Return the size in bytes of the regular file `path` (links followed), or None when nothing is there."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise CheckpointFlaw(
                "link-broken",
                f"{path} is a symbolic link to {path.readlink()}, which does not exist.",
                hint="Copy the checkpoint with its links followed (cp -rL), or fetch it again.",
            ) from None
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointFlaw("not-a-file", f"{path} is not a regular file.", hint=_COPY_AGAIN)
    return status.st_size


def read_bytes(path: Path, limit: int) -> bytes | None:
    """Return the content of `path`, or None when it does not exist; more than `limit` bytes are refused."""
    size = file_size(path)
    if size is None:
        return None
    try:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > limit:
        raise CheckpointFlaw(
            "file-too-large",
            f"{path} has {size:,} bytes; more than {limit:,} cannot be right for this file.",
            hint=_COPY_AGAIN,
        )
    return content


def read_text(path: Path, limit: int = 4 * MEGABYTE) -> str | None:
    """Return the UTF-8 text of `path` with its newlines as they are, or None when it does not exist."""
    content = read_bytes(path, limit)
    return None if content is None else _decode(content, path)


def read_object(path: Path, limit: int = 16 * MEGABYTE) -> dict[str, Any] | None:
    """Return the JSON object in `path`, or None when the file does not exist."""
    content = read_bytes(path, limit)
    return None if content is None else parse_object(content, path)


def parse_object(
    content: bytes, where: Path | str, pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> dict[str, Any]:
    """Return the JSON object in `content`; `where` names its place in messages.

    Of duplicate keys the last one wins, as in every JSON reader of the field, unless `pairs_hook` objects.
    """
    text = _decode(content, where)
    try:
        value = json.loads(text, object_pairs_hook=pairs_hook)
    except RecursionError as error:
        raise _not_json(where, "it is nested too deeply") from error
    except ValueError as error:  # JSONDecodeError, and integers of more than 4300 digits
        raise _not_json(where, str(error)) from error
    if not isinstance(value, dict):
        raise _not_json(where, f"the top level is {_kind(value)}, not an object")
    if b"\\ud" in content.lower():
        _refuse_lone_surrogates(value, where)
    return value


def _decode(content: bytes, where: Path | str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointFlaw(
            "not-utf8",
            f"{where} is not UTF-8 text: byte {error.start} is 0x{content[error.start]:02x}.",
            hint=_COPY_AGAIN,
        ) from error


def _refuse_lone_surrogates(value: Mapping[str, Any], where: Path | str) -> None:
    # Half of a \\uD83D\\uDE00 pair is legal JSON and no text at all: nothing downstream could encode it.
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (UnicodeEncodeError, RecursionError) as error:
        raise _not_json(where, "a string holds half of a surrogate pair") from error


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _not_json(where: Path | str, reason: str) -> CheckpointFlaw:
    return CheckpointFlaw("not-json", f"{where} is not a JSON object: {reason}.", hint=_COPY_AGAIN)


def _unreadable(path: Path, error: Exception) -> CheckpointFlaw:
    reason = getattr(error, "strerror", None) or str(error)
    return CheckpointFlaw(
        "unreadable", f"{path} cannot be read: {reason}.", hint="Check the path and its permissions."
    )
