"""Reading JSON that cannot be trusted: each defect is a flaw that names the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint import CheckpointFlaw
from checkpoint.jsonfile import file_size, read_object, read_text


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"[1, 2]", "not-json", "an array, not an object"),
        (b"null", "not-json", "null, not an object"),
        (b"", "not-json", "Expecting value"),
        (b'{"a": 1', "not-json", "Expecting ',' delimiter"),
        (b'{"a": ' + b"[" * 100_000, "not-json", "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not-json", "Exceeds the limit"),
        (b'{"a": "\\ud83d"}', "not-json", "half of a surrogate pair"),
        (b'{"a": "\xff"}', "not-utf8", "byte 7 is 0xff"),
        (b"\xef\xbb\xbf{}", "not-json", "BOM"),
        (b'{"a": 1}' + b" " * 1000, "file-too-large", "more than 1,000"),
    ],
)
def test_every_defect_names_the_file(tmp_path: Path, content: bytes, code: str, words: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointFlaw, match=str(path)) as caught:
        read_object(path, 1000 if code == "file-too-large" else 1_000_000)
    assert caught.value.code == code
    assert words in caught.value.message
    assert caught.value.hint


def test_harmless_oddities_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": 1, "a": 2, "b": 12345678901234567890123, "c": "\\ud83d\\ude00", "d": Infinity}')
    assert read_object(path) == {"a": 2, "b": 12345678901234567890123, "c": "😀", "d": float("inf")}


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    assert read_object(tmp_path / "x.json") is None
    assert read_text(tmp_path / "x" / "y.txt") is None


def test_text_keeps_its_newlines(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes("a\r\nb\u2028é".encode())
    assert read_text(tmp_path / "t") == "a\r\nb\u2028é"


def test_links_and_special_files(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    expected = {
        "loop": "unreadable",
        "broken": "link-broken",
        "directory": "not-a-file",
        "fifo": "not-a-file",
        "n" * 300: "unreadable",
        "null\0byte": "unreadable",
    }
    for name, code in expected.items():
        with pytest.raises(CheckpointFlaw) as caught:
            file_size(tmp_path / name)
        assert caught.value.code == code, name
