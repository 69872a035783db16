"""What the header of a GGUF file must say: where tensors lie, what fits, which shards belong together.

The layout is the one that llama.cpp insists on: tensor after tensor in the order of the header, each at the
next aligned byte. Does not read tensor data.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from checkpoint.gguf import ALIGNMENT, ArrayInfo, GgufSummary, GgufTensor
from convert.split import SHARD_NAME
from convert.types import TensorType

__all__ = ["layout", "metadata", "shard_mismatches", "shards_of"]

_LAYER = re.compile(r"blk\.(\d{1,6})\.")
_NO_TOKEN = 0xFFFFFFFF


def layout(summary: GgufSummary, types: Mapping[int, TensorType]) -> Iterator[str]:
    """Say of every tensor what is wrong with its place."""
    alignment = summary.metadata.get("general.alignment", ALIGNMENT)
    kinds = {kind.name: kind for kind in types.values()}
    at = None
    for tensor in summary.tensors:
        where = f"{summary.path.name}: tensor {tensor.name[:80]!r}"
        kind = kinds.get(tensor.type)
        if kind is None:
            yield f"{where} is of {tensor.type}, which ggml does not have."
            return
        if tensor.shape and not kind.fits(tensor.shape[-1]):
            yield f"{where} has rows of {tensor.shape[-1]}, which are no whole blocks of {tensor.type}."
        if at is not None and tensor.offset != at:
            yield f"{where} lies at byte {tensor.offset:,}, where {at:,} is expected."
        elif tensor.offset % alignment:
            yield f"{where} lies at byte {tensor.offset:,}, which is no multiple of {alignment}."
        at = -(-(tensor.offset + (tensor.bytes or 0)) // alignment) * alignment
    if at is not None and summary.size > at:
        yield f"{summary.path.name} goes on for {summary.size - at:,} bytes after its last tensor."


def metadata(summaries: Sequence[GgufSummary]) -> list[str]:
    """Say what in the metadata of the shards of one file contradicts itself or the tensors."""
    first = summaries[0]
    tensors = [tensor for summary in summaries for tensor in summary.tensors]
    problems = [] if first.architecture else [f"{first.path.name} names no general.architecture."]
    twice = [name for name, count in Counter(tensor.name for tensor in tensors).items() if count > 1]
    problems += [f"There are two tensors {name[:80]!r}." for name in twice]
    layers = first.metadata.get(f"{first.architecture}.block_count")
    found = {int(match[1]) for tensor in tensors if (match := _LAYER.match(tensor.name))}
    if isinstance(layers, int) and found and found != set(range(min(layers, 1 << 20))):
        problems.append(f"The file says it has {layers} layers, but holds tensors of {len(found)}.")
    return problems + _vocabulary(first.metadata, tensors)


def _vocabulary(fields: Mapping[str, Any], tensors: Sequence[GgufTensor]) -> list[str]:
    count = _length(fields.get("tokenizer.ggml.tokens"))
    if count is None:
        return []
    problems = []
    for key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        length = _length(fields.get(key))
        if length not in {None, count}:
            problems.append(f"There are {count} tokens, but {length} entries of {key}.")
    for tensor in tensors:
        if tensor.name in {"token_embd.weight", "output.weight"} and tensor.shape[:1] != (count,):
            problems.append(f"There are {count} tokens, but {tensor.name} has {tensor.shape[:1]} rows.")
    ids = [key for key in fields if key.startswith("tokenizer.ggml.") and key.endswith("_token_id")]
    problems += [
        f"{key} is {fields[key]!r}, but there are {count} tokens."
        for key in ids
        if not isinstance(fields[key], int) or not (0 <= fields[key] < count or fields[key] == _NO_TOKEN)
    ]
    return problems


def _length(value: Any) -> int | None:
    if isinstance(value, ArrayInfo):
        return value.length
    return len(value) if isinstance(value, list) else None


def shards_of(path: Path) -> list[Path]:
    """Return all the shards that the name of `path` tells of: mostly only itself."""
    match = SHARD_NAME.fullmatch(path.name)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]):
        return [path]
    count = int(match["count"])
    return [path.with_name(f"{match['stem']}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]


def shard_mismatches(
    files: Sequence[Path], present: Sequence[Path], summaries: Sequence[GgufSummary]
) -> list[str]:
    """Say which of `files` are missing, and which say of themselves what their names do not."""
    problems = [f"{file.name} is missing." for file in files if file not in present]
    total = sum(len(summary.tensors) for summary in summaries)
    for summary in summaries:
        fields, name = summary.metadata, summary.path.name
        number, count = fields.get("split.no", 0), fields.get("split.count", 1)
        place = files.index(summary.path)
        # A count of zero is how a file that was never split may say so.
        if (number, count or 1) != (place, len(files)):
            problems.append(
                f"{name} says it is number {number!r} (counted from 0) of {count!r}; by its name it is "
                f"{place} of {len(files)}."
            )
        claimed = fields.get("split.tensors.count", total)
        if len(summaries) == len(files) and claimed != total:
            problems.append(f"{name} says that the shards hold {claimed!r} tensors; they hold {total}.")
    return problems
