"""A GGUF file in several: NAME-00001-of-00003.gguf, as llama.cpp's gguf-split cuts and names them.

The first shard has all of the metadata, the others none of their own; a shard ends before the tensor with
which its tensors would take more than the size asked for. Does not write.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from convert.fields import Field, Kind
from convert.writer import OutputTensor, aligned, file_size
from errors import UsageError

__all__ = ["SHARD_NAME", "ShardPlan", "cut", "read_size"]

SHARD_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_SIZE = re.compile(r"(\d{1,9})([MG])", re.IGNORECASE)
_UNITS = {"M": 1000**2, "G": 1000**3}
_MOST = 400
"""Shards of one file: more is a slip of the pen, and soon more open files than systems allow."""


@dataclass(frozen=True)
class ShardPlan:
    """One file to be written: the whole of a GGUF, or a part of it."""

    path: Path
    fields: tuple[Field, ...]
    tensors: tuple[OutputTensor, ...]

    @cached_property
    def bytes(self) -> int:
        """Size of the file."""
        return file_size(self.fields, self.tensors)


def read_size(text: str) -> int:
    """Return the bytes of "500M" or "2G": decimal units, as in gguf-split. Raises `UsageError`."""
    match = _SIZE.fullmatch(text.strip())
    size = int(match[1]) * _UNITS[match[2].upper()] if match else 0
    if not size:
        raise UsageError(
            f"--split-max-size {text!r} is not a size.", hint="Write a number and M or G: 500M, 2G."
        )
    return size


def cut(
    path: Path, fields: tuple[Field, ...], tensors: tuple[OutputTensor, ...], most: int | None
) -> tuple[ShardPlan, ...]:
    """Return the files that hold `tensors` in at most `most` bytes of tensor data each; None: one file.

    What fits into one file keeps its name and has no keys of a split.
    """
    groups = [tensors] if most is None else _groups(tensors, most)
    if len(groups) == 1:
        return (ShardPlan(path, fields, tensors),)
    if len(groups) > _MOST:
        raise UsageError(
            f"{path.name} would be cut into {len(groups):,} files.",
            hint="Give --split-max-size a larger one.",
        )
    return tuple(
        ShardPlan(
            path.with_name(f"{path.stem}-{number:05d}-of-{len(groups):05d}.gguf"),
            (*(fields if number == 1 else ()), *_split_fields(number - 1, len(groups), len(tensors))),
            group,
        )
        for number, group in enumerate(groups, 1)
    )


def _groups(tensors: Sequence[OutputTensor], most: int) -> list[tuple[OutputTensor, ...]]:
    groups: list[list[OutputTensor]] = [[]]
    size = 0
    for tensor in tensors:
        data = aligned(tensor.bytes)
        if groups[-1] and size + data > most:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += data
    return [tuple(group) for group in groups]


def _split_fields(number: int, count: int, tensors: int) -> tuple[Field, ...]:
    return (
        Field("split.no", Kind.UINT16, number),
        Field("split.count", Kind.UINT16, count),
        Field("split.tensors.count", Kind.INT32, tensors),
    )
