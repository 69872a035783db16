"""A plan carried out: one pass over the weights, any number of files.

Blocks of rows are converted by threads (the kernels run without Python's lock) and written in order by the
caller's thread, so memory stays flat however large the model is. Every file appears under its final name only
when all of it is there. Does not decide anything: the plan did.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from checkpoint import Checkpoint
from convert.kernels import Kernels, Stored, load_kernels
from convert.plan import ConversionPlan
from convert.tensors import TensorSource
from convert.types import TensorType
from convert.writer import GgufStream, header
from errors import ConversionError, OutputError
from files import replacing_all

__all__ = ["ConvertedFile", "Progress", "run_conversion"]

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

_BLOCK = 1 << 18
"""Elements that one thread converts at a time: 1 MiB of float32, which stays in the cache."""
_F16_LIMIT = 65520.0
"""The smallest magnitude that float16 rounds to infinity."""
_AHEAD = 8
"""Blocks in flight for each thread."""

_Bytes = np.ndarray[Any, np.dtype[np.uint8]]
_Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class ConvertedFile:
    """One finished GGUF file, or one shard of it."""

    path: Path
    type: str
    bytes: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        return {"path": str(self.path), "type": self.type, "bytes": self.bytes, "sha256": self.sha256}


def run_conversion(
    plan: ConversionPlan,
    *,
    progress: Progress | None = None,
    threads: int | None = None,
    kernels: str = "auto",
) -> tuple[ConvertedFile, ...]:
    """Write the files of `plan` with `threads` threads (default: one for each core) and the `kernels` named
    ("auto", "ggml", "fast"; they give the same bytes).

    Raises `OutputError` when the disk is full or refuses, `ConversionError` for weights that are not finite
    or that changed since the plan was made, `EngineMissing` for kernels that cannot be had. On any failure
    no file is left under its final name.
    """
    now = Checkpoint.open(plan.checkpoint).with_adapter(plan.adapter)
    if now.weights.fingerprint() != plan.fingerprint:
        raise ConversionError(
            f"The weights in {plan.checkpoint} have changed since the conversion was planned.",
            hint="Run the command again.",
        )
    _check_space(plan)
    loaded = load_kernels(kernels)
    shards = [shard for file in plan.files for shard in file.shards]
    with contextlib.ExitStack() as stack:
        # Entered before the pool, so that no thread works any more when partial files are removed.
        opened = stack.enter_context(replacing_all([shard.path for shard in shards]))
        streams = [GgufStream(stream, shard.path) for shard, stream in zip(shards, opened, strict=True)]
        pool = stack.enter_context(_pool(threads))
        _Pass(plan, loaded, streams, pool, progress).run()
        kinds = [file.type for file in plan.files for _ in file.shards]
        return tuple(
            ConvertedFile(shard.path, kind, stream.bytes, stream.sha256)
            for shard, kind, stream in zip(shards, kinds, streams, strict=True)
        )


@contextlib.contextmanager
def _pool(threads: int | None) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads or _cores(), thread_name_prefix="convert")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _check_space(plan: ConversionPlan) -> None:
    directory = plan.files[0].path.parent
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    if plan.bytes > free:
        raise OutputError(
            f"The files would take {plan.bytes:,} bytes, but {directory} has only {free:,} bytes left.",
            hint="Free some space or choose another place with -o.",
        )


class _Pass:
    """One pass over the weights."""

    def __init__(
        self,
        plan: ConversionPlan,
        kernels: Kernels,
        streams: Sequence[GgufStream],
        pool: ThreadPoolExecutor,
        progress: Progress | None,
    ) -> None:
        self._plan = plan
        self._kernels = kernels
        self._streams = streams
        """One for each shard of each file, in that order."""
        self._owners = _owners(plan)
        self._pool = pool
        self._progress = progress
        self._ahead = _AHEAD * pool._max_workers

    def run(self) -> None:
        shards = [shard for file in self._plan.files for shard in file.shards]
        for shard, stream in zip(shards, self._streams, strict=True):
            stream.write(header(shard.fields, shard.tensors))
        waiting: deque[tuple[int, bool, Future[Mapping[str, _Bytes]]]] = deque()
        for index, last, future in self._blocks():
            waiting.append((index, last, future))
            if len(waiting) >= self._ahead:
                self._write(*waiting.popleft())
        while waiting:
            self._write(*waiting.popleft())

    def _blocks(self) -> Iterator[tuple[int, bool, Future[Mapping[str, _Bytes]]]]:
        """Hand block after block to the pool: (tensor's index, is it the last block, bytes by type)."""
        for index, source in enumerate(self._plan.sources):
            kinds = {file.tensors[index].type.name: file.tensors[index].type for file in self._plan.files}
            block = _Block(self._kernels, source, tuple(kinds.values()), self._weights(source))
            for start, stop, last in _ranges(source.shape):
                yield index, last, self._pool.submit(block.convert, start, stop)

    def _weights(self, source: TensorSource) -> _Floats | None:
        importance = self._plan.importance
        return importance.of(source.name, source.shape) if importance else None

    def _write(self, index: int, last: bool, future: Future[Mapping[str, _Bytes]]) -> None:
        made = future.result()
        for file, owners in zip(self._plan.files, self._owners, strict=True):
            stream = self._streams[owners[index]]
            stream.write(made[file.tensors[index].type.name])
            if last:
                stream.pad()
        if self._progress is not None:
            self._progress(sum(stream.bytes for stream in self._streams), self._plan.bytes)


def _owners(plan: ConversionPlan) -> list[list[int]]:
    """Return, for each file, the number of the shard (counted over all files) that holds each tensor."""
    numbers = itertools.count()
    return [
        [number for shard, number in zip(file.shards, numbers, strict=False) for _ in shard.tensors]
        for file in plan.files
    ]


def _ranges(shape: tuple[int, ...]) -> Iterator[tuple[int, int, bool]]:
    """Cut the rows of a tensor into blocks (start, stop, is it the last), each within one expert."""
    count, step = math.prod(shape[:-1]), max(1, _BLOCK // shape[-1])
    each = _expert_rows(shape)
    for first in range(0, count, each):
        for start in range(first, first + each, step):
            stop = min(start + step, first + each)
            yield start, stop, stop == count


def _expert_rows(shape: tuple[int, ...]) -> int:
    """Return the number of rows of one expert; of the whole tensor where it is no stack of them."""
    return shape[-2] if len(shape) > 2 else math.prod(shape[:-1])


class _Block:
    """Converts rows of one tensor to all the types that are wanted of it."""

    def __init__(
        self,
        kernels: Kernels,
        source: TensorSource,
        kinds: tuple[TensorType, ...],
        weights: _Floats | None,
    ) -> None:
        self._kernels = kernels
        self._weights = weights
        self._source = source
        self._kinds = kinds

    def convert(self, start: int, stop: int) -> Mapping[str, _Bytes]:
        """Return the bytes of rows `start` to `stop` (of one expert), by the name of the type."""
        rows = np.ascontiguousarray(self._source.rows.read(start, stop))
        stored = Stored(rows, self._source.dtype)
        largest = self._largest(stored)
        weights = None if self._weights is None else self._weights[start // _expert_rows(self._source.shape)]
        return {kind.name: self._made(stored, kind, largest, weights) for kind in self._kinds}

    def _made(self, stored: Stored, kind: TensorType, largest: float, weights: _Floats | None) -> _Bytes:
        if kind.name == stored.dtype:  # finite values stay as they are
            return stored.rows.reshape(-1).view(np.uint8)
        data = self._kernels.quantize(stored, kind, weights)
        if (largest >= _F16_LIMIT and kind.name == "F16") or not self._kernels.is_valid(data, kind):
            raise ConversionError(
                f"Tensor {self._source.described} holds values up to {largest:.3g}, which do not fit into "
                f"{kind.name}.",
                hint="Choose another type, such as bf16.",
            )
        return data

    def _largest(self, stored: Stored) -> float:
        """Return the largest magnitude. Raises `ConversionError` for a NaN or an infinity."""
        largest = stored.largest()
        if math.isfinite(largest):
            return largest
        bad = stored.not_finite()
        raise ConversionError(
            f"Tensor {self._source.described} holds {bad} value{'s' if bad > 1 else ''} that are NaN or "
            "infinite.",
            hint="The training or the merge went wrong (often float16 overflow): merge again in bfloat16.",
        )
