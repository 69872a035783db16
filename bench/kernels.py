"""The fast kernels against ggml's: weights a second on one thread, and whether the bytes are the same.

    python bench/kernels.py [--rows 512] [--repeats 7] [--types Q4_K,Q6_K] [--dtype BF16]

Each type is measured in turn with both, in one run: quantization of rows of 1024 normal values, with all the
packing; ggml's with the widening to float32 that it needs where they are stored as BF16 or F16. What is
printed are medians. What a type costs once, to compile its kernel for this processor and to load it
afterwards, is measured in an empty cache directory.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from rich.console import Console
from rich.table import Table

from convert.kernels import FAST_TYPES, Kernels, Stored, load_fast, load_ggml
from convert.types import tensor_type

_ROW = 1024


def seconds(run: Callable[[], object]) -> float:
    """How long `run` takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compilation(name: str, dtype: str) -> tuple[float, float]:
    """Milliseconds before the first block of a type: the very first time, and from the cache."""
    stored, kind = _stored(np.ones((8, _ROW), np.float32), dtype), tensor_type(name)
    first, later = (
        1000 * seconds(lambda: load_fast(forced=True).quantize(stored, kind)) for _ in ("compiled", "cached")
    )
    return first, later


def _stored(rows: np.ndarray[Any, np.dtype[np.float32]], dtype: str) -> Stored:
    if dtype == "BF16":
        return Stored((rows.view(np.uint32) >> 16).astype(np.uint16), dtype)
    return Stored(rows.astype(np.float16) if dtype == "F16" else rows, dtype)


def main() -> None:
    """Print the table."""
    options = _options()
    ggml, fast = load_ggml(), load_fast(forced=True)
    both: tuple[Kernels, Kernels] = (ggml, fast)
    rows = np.random.default_rng(0).normal(0, 0.02, (options.rows, _ROW)).astype(np.float32)
    title = f"M {options.dtype} weights/s on one thread, {_processor()}; medians of {options.repeats}"
    table = Table("type", "ggml", "fast", "ratio", "same bytes", "compile ms", "load ms", title=title)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PORTSIDE_CACHE"] = cache
        for name in options.types.split(","):
            kind = tensor_type(name)
            first, later = compilation(name, options.dtype)
            once = _stored(rows, options.dtype)
            same = np.array_equal(ggml.quantize(once, kind), fast.quantize(once, kind))
            times: tuple[list[float], list[float]] = [], []
            for _ in range(options.repeats):
                for series, kernels in zip(times, both, strict=True):
                    stored = Stored(once.rows, once.dtype)  # nothing of it is widened yet
                    series.append(seconds(lambda: kernels.quantize(stored, kind)))  # noqa: B023
            slow, quick = (rows.size / statistics.median(series) / 1e6 for series in times)
            ratio = f"{quick / slow:.1f}x"
            word = "yes" if same else "NO"
            table.add_row(name, f"{slow:.0f}", f"{quick:.0f}", ratio, word, f"{first:.0f}", f"{later:.0f}")
    Console().print(table)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=512, help=f"rows of {_ROW} weights")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", choices=("BF16", "F16", "F32"), default="F32")
    parser.add_argument("--types", default=",".join(FAST_TYPES))
    return parser.parse_args()


if __name__ == "__main__":
    main()
