"""The weights of GGUF files read once: every block's scales judged, and the digests computed.

Blocks come out of a memory map; a thread of its own computes the digests meanwhile. Does not know what the
header should say.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from checkpoint.gguf import GgufSummary, GgufTensor
from convert.finite import first_bad_block, is_judged
from convert.types import TensorType

__all__ = ["DataCheck", "Progress", "check_data"]

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

_STEP = 1 << 22
"""Bytes judged at a time."""


@dataclass(frozen=True)
class DataCheck:
    """What reading the data showed."""

    problems: tuple[str, ...]
    detail: str
    digests: Mapping[Path, str]
    """SHA-256 of the files that were to be hashed."""


class _Counter:
    """Bytes done by both readers, reported from either thread."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress, self._done = total, progress, 0
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        with self._lock:
            self._done += size
            if self._progress is not None:
                self._progress(self._done, self._total)


def check_data(
    files: Sequence[Path],
    summaries: Sequence[GgufSummary],
    types: Mapping[int, TensorType],
    *,
    hashed: Collection[Path],
    progress: Progress | None = None,
) -> DataCheck:
    """Read the tensors of `summaries`, and all of the files in `hashed`."""
    sizes = {file: file.stat().st_size for file in files}
    judged = sum(tensor.bytes or 0 for summary in summaries for tensor in summary.tensors)
    counter = _Counter(judged + sum(sizes[file] for file in hashed), progress)
    with ThreadPoolExecutor(1) as pool:
        digests = {file: pool.submit(_digest, file, counter) for file in hashed}
        problems = [line for summary in summaries for line in _bad_tensors(summary, types, counter)]
        finished = {file: future.result() for file, future in digests.items()}
    unjudged = {t.type for s in summaries for t in s.tensors if not is_judged(t.type)}
    detail = f"finite scales in every block of {judged:,} bytes"
    if unjudged:
        detail += f"; nothing is known of {', '.join(sorted(unjudged))}"
    return DataCheck(tuple(problems), detail, finished)


def _digest(file: Path, counter: _Counter) -> str:
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while piece := stream.read(_STEP):
            digest.update(piece)
            counter.add(len(piece))
    return digest.hexdigest()


def _bad_tensors(summary: GgufSummary, types: Mapping[int, TensorType], counter: _Counter) -> Iterator[str]:
    kinds = {kind.name: kind for kind in types.values()}
    data = np.memmap(summary.path, np.uint8, "r")
    for tensor in summary.tensors:
        kind = kinds.get(tensor.type)
        if kind is None or not tensor.bytes:
            continue
        bad = _first_bad(data, tensor, kind, counter)
        if bad is not None:
            row = bad * kind.block // tensor.shape[-1]
            yield (
                f"{summary.path.name}: tensor {tensor.name[:80]!r} ({tensor.type}) is not finite from block "
                f"{bad:,} (row {row:,}) on."
            )


def _first_bad(
    data: np.ndarray[Any, np.dtype[np.uint8]], tensor: GgufTensor, kind: TensorType, counter: _Counter
) -> int | None:
    count = (tensor.bytes or 0) // kind.block_bytes
    step = max(1, _STEP // kind.block_bytes)
    found = None
    for start in range(0, count, step):
        stop = min(start + step, count)
        if found is None:
            first, last = (tensor.offset + at * kind.block_bytes for at in (start, stop))
            bad = first_bad_block(data[first:last], kind)
            found = None if bad is None else start + bad
        counter.add((stop - start) * kind.block_bytes)
    return found
