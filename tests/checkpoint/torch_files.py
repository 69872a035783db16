"""Torch files for tests, written without torch: as `torch.save` lays them out, and in hostile ways."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from checkpoint import Checkpoint

__all__ = ["as_torch_files", "state_dict_pickle", "write_archive", "write_torch"]

_CLASSES = {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage", "I64": "LongStorage"}

Tensors = Mapping[str, tuple[str, np.ndarray[Any, Any]]]


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(number: int) -> bytes:
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _sizes(sizes: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_integer, sizes)) + b"t"


def tensor_program(
    dtype: str, key: str, elements: int, shape: tuple[int, ...], *, offset: int = 0, strides: Any = None
) -> bytes:
    """Return the opcodes that leave one tensor on the stack."""
    if strides is None:
        strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    storage = (
        b"(" + _text("storage") + b"ctorch\n" + _CLASSES[dtype].encode() + b"\n" + _text(key) + _text("cpu")
    )
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + _integer(elements)
        + b"tQ"
        + _integer(offset)
        + _sizes(shape)
        + _sizes(strides)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def state_dict_pickle(entries: Mapping[str, bytes]) -> bytes:
    """Return the pickle of an OrderedDict of these programs' results, with a module's `_metadata`."""
    items = b"".join(_text(name) + program for name, program in entries.items())
    state = b"}" + _text("_metadata") + b"ccollections\nOrderedDict\n)Rs"
    return b"\x80\x02ccollections\nOrderedDict\n)Rq\x00(" + items + b"u" + state + b"b."


def write_archive(path: Path, entries: Mapping[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(f"archive/{name}", data)


def write_torch(path: Path, tensors: Tensors) -> None:
    """Write `tensors` (name -> dtype, array; BF16 as uint16) as `torch.save` of a state dict would."""
    programs, entries = {}, {}
    for number, (name, (dtype, array)) in enumerate(tensors.items()):
        programs[name] = tensor_program(dtype, str(number), array.size, array.shape)
        entries[f"data/{number}"] = np.ascontiguousarray(array).tobytes()
    write_archive(
        path, {"data.pkl": state_dict_pickle(programs), "byteorder": b"little", "version": b"3\n", **entries}
    )


def as_torch_files(directory: Path, shards: int = 1) -> None:
    """Put the weights of a checkpoint into torch files, in place of its safetensors."""
    weights = Checkpoint.open(directory).weights
    tensors = {info.name: (info.dtype, weights.raw(info.name).copy()) for info in weights}
    for file in directory.glob("model*.safetensors*"):
        file.unlink()
    if shards == 1:
        write_torch(directory / "pytorch_model.bin", tensors)
        return
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        shard = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = names[number::shards]
        write_torch(directory / shard, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))


class Evil:
    """Pickles as a call of os.system."""

    def __reduce__(self) -> Any:
        import os

        return os.system, ("echo broken out",)


def evil_pickle(protocol: int = 2) -> bytes:
    return pickle.dumps({"w": Evil()}, protocol=protocol)
