"""The safetensors header: what is accepted is exactly what the format allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open

from checkpoint import CheckpointFlaw
from checkpoint.safetensors import header_bytes, read_header
from tests.checkpoints import write_safetensors


def _file(path: Path, header: Any, data: bytes = b"", *, raw: bytes | None = None) -> Path:
    text = raw if raw is not None else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def _entry(shape: list[Any], begin: Any, end: Any, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(
        path,
        {
            "a.weight": ("F32", np.arange(6, dtype=np.float32).reshape(2, 3)),
            "empty": ("BF16", np.empty((0, 4), dtype=np.uint16)),
            "scalar": ("I64", np.array(7, dtype=np.int64)),
        },
    )
    header = read_header(path)
    assert header.metadata == {"format": "pt"}
    assert list(header.tensors) == ["a.weight", "empty", "scalar"]
    info = header.tensors["a.weight"]
    assert (info.dtype, info.shape, info.elements, info.nbytes) == ("F32", (2, 3), 6, 24)
    assert info.start % 8 == 0
    assert path.read_bytes()[info.start : info.end] == np.arange(6, dtype=np.float32).tobytes()
    with safe_open(path, framework="numpy") as theirs:
        assert theirs.get_tensor("a.weight").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert theirs.metadata() == {"format": "pt"}


def test_the_header_of_no_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(header_bytes([]))
    assert read_header(path).tensors == {}


BAD: dict[str, tuple[Any, bytes, str]] = {
    "a hole": ({"a": _entry([2], 0, 2), "b": _entry([2], 3, 5)}, b"12345", "leaves a hole"),
    "a hole at the start": ({"a": _entry([2], 1, 3)}, b"123", "leaves a hole"),
    "an overlap": ({"a": _entry([2], 0, 2), "b": _entry([2], 1, 3)}, b"123", "overlaps"),
    "data left over": ({"a": _entry([2], 0, 2)}, b"123", "but the file has"),
    "another size": ({"a": _entry([3], 0, 2)}, b"12", "another size"),
    "an overflowing shape": ({"a": _entry([1 << 62, 1 << 62], 0, 2)}, b"12", "another size"),
    "a negative size": ({"a": _entry([-2], 0, 2)}, b"12", "no proper shape"),
    "a bool in the shape": ({"a": _entry([True], 0, 1)}, b"1", "no proper shape"),
    "a float in the shape": ({"a": _entry([2.0], 0, 2)}, b"12", "no proper shape"),
    "too many dimensions": ({"a": _entry([1] * 65, 0, 1)}, b"1", "no proper shape"),
    "an unknown dtype": ({"a": _entry([2], 0, 2, "Q4")}, b"12", "unknown dtype 'Q4'"),
    "a dtype that is no text": ({"a": _entry([2], 0, 2, ["U8"])}, b"12", "unknown dtype"),
    "offsets in reverse": ({"a": _entry([2], 2, 0)}, b"12", "data_offsets"),
    "three offsets": ({"a": {**_entry([2], 0, 2), "data_offsets": [0, 1, 2]}}, b"12", "data_offsets"),
    "half a byte": ({"a": _entry([1], 0, 1, "F4")}, b"1", "another size"),
    "an entry that is no object": ({"a": [1]}, b"", "not an object"),
    "a name with a control character": ({"a\n": _entry([2], 0, 2)}, b"12", "has the name"),
    "no name": ({"": _entry([2], 0, 2)}, b"12", "has the name"),
}


@pytest.mark.parametrize("kind", BAD)
def test_damaged_headers_are_refused(tmp_path: Path, kind: str) -> None:
    header, data, words = BAD[kind]
    path = _file(tmp_path / "model.safetensors", header, data)
    with pytest.raises(CheckpointFlaw) as caught:
        read_header(path)
    assert caught.value.code == "shard-damaged"
    assert str(path) in caught.value.message
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "shard-truncated"),
        (b"1234567", "shard-truncated"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "shard-truncated"),
        (b"\xff" * 8, "shard-truncated"),
        ((2).to_bytes(8, "little") + b"[]", "not-json"),
        ((4).to_bytes(8, "little") + b"\xff\xff{}", "not-utf8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs-pointer"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointFlaw, match=str(path)) as caught:
        read_header(path)
    assert caught.value.code == code


def test_a_name_twice_is_refused_as_the_format_says(tmp_path: Path) -> None:
    entry = json.dumps(_entry([2], 0, 2))
    path = _file(tmp_path / "x.safetensors", None, b"12", raw=f'{{"a": {entry}, "a": {entry}}}'.encode())
    with pytest.raises(CheckpointFlaw, match="a key occurs twice"):
        read_header(path)


def test_a_cut_file_says_what_is_missing(tmp_path: Path) -> None:
    path = _file(tmp_path / "x.safetensors", {"a": _entry([9], 0, 9)}, b"1234")
    with pytest.raises(CheckpointFlaw, match="cut short") as caught:
        read_header(path)
    assert caught.value.code == "shard-truncated"


@pytest.mark.parametrize("kind", [kind for kind in BAD if "name" not in kind])
def test_the_reference_implementation_refuses_the_same(tmp_path: Path, kind: str) -> None:
    header, data, _ = BAD[kind]
    path = _file(tmp_path / "x.safetensors", header, data)
    if kind == "too many dimensions":  # a limit of ours: numpy has it too
        return
    with pytest.raises(SafetensorError), safe_open(path, framework="numpy"):
        pass
