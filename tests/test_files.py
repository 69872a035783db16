"""Outputs are whole or absent."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from errors import OutputError
from files import cache_dir, replacing, replacing_directory, write_text


def test_a_written_file_has_its_final_name_and_the_umask(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.txt"
    write_text(target, "über\r\n")
    assert target.read_bytes() == "über\r\n".encode()
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]
    assert target.stat().st_mode & 0o400


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "file"
    write_text(target, "old")
    with pytest.raises(failure), replacing(target) as stream:
        stream.write(b"half of the new")
        raise failure
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_disk_that_is_full_is_one_sentence(tmp_path: Path) -> None:
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old_limit[1]))
    try:
        with pytest.raises(OutputError, match=r"Cannot write .*file: the file would be larger"):
            write_text(tmp_path / "file", "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert list(tmp_path.iterdir()) == []


def test_an_output_below_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        write_text(tmp_path / "file" / "below", "x")


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    for text in ("first", "second"):
        with replacing_directory(target) as partial:
            (partial / text).write_text(text)
    assert [path.name for path in target.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with replacing_directory(target) as partial:
        (partial / "old").write_text("old")
    with pytest.raises(RuntimeError), replacing_directory(target) as partial:
        (partial / "new").write_text("new")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_the_cache_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTSIDE_CACHE", "/somewhere")
    assert cache_dir() == Path("/somewhere")
    monkeypatch.delenv("PORTSIDE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/portside")
