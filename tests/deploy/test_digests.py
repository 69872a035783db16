"""Digests of large files: computed once, and again for another file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from deploy.digests import digest_file, file_digest, remember_digest
from errors import BadInput


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_is_hashed_once_and_again_when_it_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF one")
    assert file_digest(path) == sha256(b"GGUF one")
    with monkeypatch.context() as patched:
        patched.setattr(hashlib, "file_digest", None)  # it would be called
        assert file_digest(path) == sha256(b"GGUF one")
    other = tmp_path / "other"
    other.write_bytes(b"GGUF two")
    other.replace(path)
    assert file_digest(path) == sha256(b"GGUF two")


def test_a_damaged_or_unwritable_note_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    digest_file(path).write_text("{")
    assert file_digest(path) == sha256(b"GGUF")
    digest_file(path).unlink()
    digest_file(path).mkdir()
    remember_digest(path, "x")
    assert file_digest(path) == sha256(b"GGUF")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Cannot read"):
        file_digest(tmp_path / "nothing.gguf")
