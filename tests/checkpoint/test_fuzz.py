"""Whatever bytes a checkpoint is made of, only a `PortsideError` ever comes out."""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoint import Checkpoint, survey
from checkpoint.safetensors import read_header
from errors import PortsideError
from tests.checkpoints import write_random_checkpoint

COMMON = settings(deadline=None, suppress_health_check=list(HealthCheck))

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.sampled_from([2**31, 2**63, -(2**70), 10**30, 1e308, 0.5])
    | st.text(max_size=8)
    | st.sampled_from(["bfloat16", "<|im_end|>", "he", "BPE", "Sequence", "ByteLevel"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


@functools.cache
def _good() -> dict[str, bytes]:
    """Return the files of a small sound checkpoint."""
    with tempfile.TemporaryDirectory() as name:
        directory = write_random_checkpoint(
            Path(name), hidden=32, heads=2, kv_heads=1, intermediate=64, layers=1
        )
        return {path.name: path.read_bytes() for path in directory.iterdir()}


def _use_everything(directory: Path) -> None:
    """Go through every public door of the room; anything but a `PortsideError` fails the test."""
    found = survey(directory)
    assert all(finding.code and finding.message for finding in found.findings)
    with contextlib.suppress(PortsideError):
        checkpoint = Checkpoint.open(directory)
        _ = checkpoint.chat_template, checkpoint.name
        doors: list[Callable[[], object]] = [
            lambda: checkpoint.tokenizer.merges,
            lambda: checkpoint.tokenizer.adds_bos,
            lambda: checkpoint.tokenizer.decode(checkpoint.tokenizer.encode("hello <|im_end|> 12é", True)),
            lambda: checkpoint.tokenizer.id_of("hello"),
            lambda: [checkpoint.weights.raw(name).shape for name in checkpoint.weights.names],
            lambda: (
                checkpoint.weights.fingerprint(),
                checkpoint.weights.dtype,
                checkpoint.weights.parameters,
            ),
        ]
        for door in doors:
            with contextlib.suppress(PortsideError):
                door()


def _with(**files: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        for file, content in {
            **_good(),
            **{key.replace("__", "."): value for key, value in files.items()},
        }.items():
            (Path(name) / file).write_bytes(content)
        _use_everything(Path(name))


@st.composite
def _mutated_bytes(draw: st.DrawFn, source: Callable[[], bytes]) -> bytes:
    content = bytearray(source())
    for _ in range(draw(st.integers(1, 6))):
        position = draw(st.integers(0, len(content) - 1))
        kind = draw(st.sampled_from(["set", "cut", "insert", "repeat"]))
        if kind == "set":
            content[position] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[position : position + draw(st.integers(1, 40))]
        elif kind == "insert":
            content[position:position] = draw(st.binary(max_size=9))
        else:
            content[position:position] = content[position : position + 20]
        content = content or bytearray(b"x")
    return bytes(content)


@st.composite
def _mutated_json(draw: st.DrawFn, source: Callable[[], bytes]) -> bytes:
    """Replace, remove or add values anywhere in the structure."""
    root = json.loads(source())
    for _ in range(draw(st.integers(1, 3))):
        node: Any = root
        for _ in range(draw(st.integers(0, 4))):
            children = [key for key, value in _items(node) if isinstance(value, dict | list) and value]
            if not children:
                break
            node = node[draw(st.sampled_from(children))]
        keys = [key for key, _ in _items(node)]
        if not keys:
            continue
        key = draw(st.sampled_from(keys[:40]))
        if isinstance(node, dict) and draw(st.booleans()) and draw(st.booleans()):
            del node[key]
        else:
            node[key] = draw(JSON_VALUES)
    return json.dumps(root).encode()


def _items(node: Any) -> list[tuple[Any, Any]]:
    return list(node.items()) if isinstance(node, dict) else list(enumerate(node))


SMALL_FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize("name", SMALL_FILES)
@COMMON
@given(data=st.data())
def test_json_files_with_mutated_bytes(name: str, data: st.DataObject) -> None:
    _with(**{name.replace(".", "__"): data.draw(_mutated_bytes(lambda: _good()[name]))})


@pytest.mark.parametrize("name", SMALL_FILES)
@COMMON
@given(data=st.data())
def test_json_files_with_mutated_values(name: str, data: st.DataObject) -> None:
    _with(**{name.replace(".", "__"): data.draw(_mutated_json(lambda: _good()[name]))})


def _header() -> bytes:
    content = _good()["model.safetensors"]
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


def _assembled(header: bytes) -> bytes:
    content = _good()["model.safetensors"]
    data = content[8 + int.from_bytes(content[:8], "little") :]
    return len(header).to_bytes(8, "little") + header + data


@COMMON
@given(data=st.data())
def test_weights_with_mutated_headers(data: st.DataObject) -> None:
    mutated = _mutated_json(_header) if data.draw(st.booleans()) else _mutated_bytes(_header)
    _with(model__safetensors=_assembled(data.draw(mutated)))


@COMMON
@given(data=st.data())
def test_weights_with_mutated_bytes(data: st.DataObject) -> None:
    _with(model__safetensors=data.draw(_mutated_bytes(lambda: _good()["model.safetensors"])))


@COMMON
@given(
    content=st.binary(max_size=64)
    | st.binary(max_size=40).map(lambda rest: len(rest).to_bytes(8, "little") + rest)
)
def test_headers_of_nothing_but_noise(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        with contextlib.suppress(PortsideError):
            read_header(Path(file.name))


@COMMON
@given(weight_map=st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=3) | JSON_VALUES)
def test_any_index(weight_map: Any) -> None:
    files = _good()
    index = json.dumps({"weight_map": weight_map}).encode()
    with tempfile.TemporaryDirectory() as name:
        for file, content in files.items():
            (Path(name) / file.replace("model.safetensors", "model-00001.safetensors")).write_bytes(content)
        (Path(name) / "model.safetensors.index.json").write_bytes(index)
        _use_everything(Path(name))
