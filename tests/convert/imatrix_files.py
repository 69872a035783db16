"""Importance matrices as files: llama-imatrix's GGUF, its older .dat, and random numbers."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from convert import ConversionPlan

__all__ = ["random_sums", "write_imatrix_dat", "write_imatrix_gguf"]

Sums = Mapping[str, tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.float32]]]]
"""By the name of the tensor: sums of squares (experts, row length), and how many were summed (experts)."""


def random_sums(plan: ConversionPlan, *, without: str = "") -> Sums:
    """Return sums for every matrix but the embedding and those with `without` in their names."""
    random = np.random.default_rng(7)
    sums = {}
    for source in plan.sources:
        if (
            len(source.shape) < 2
            or source.name == "token_embd.weight"
            or (without and without in source.name)
        ):
            continue
        experts = source.shape[0] if len(source.shape) > 2 else 1
        values = random.lognormal(0, 2, (experts, source.shape[-1])).astype(np.float32)
        values[:, ::37] = 0  # a column that never fired
        sums[source.name] = values, random.integers(1, 900, experts).astype(np.float32)
    return sums


def write_imatrix_gguf(path: Path, sums: Sums) -> Path:
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["wiki.train.raw", "more.txt"])
    writer.add_uint32("imatrix.chunk_count", 12)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (values, counts) in sums.items():
        writer.add_tensor(f"{name}.in_sum2", values)
        writer.add_tensor(f"{name}.counts", counts[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_imatrix_dat(path: Path, sums: Sums, *, calls: int = 3, tail: bool = True) -> Path:
    parts = [struct.pack("<i", len(sums))]
    for name, (values, _) in sums.items():
        parts += [struct.pack("<i", len(name)), name.encode(), struct.pack("<ii", calls, values.size)]
        parts.append(values.astype("<f4").tobytes())
    if tail:
        parts.append(struct.pack("<ii", 12, 8) + b"wiki.raw")
    path.write_bytes(b"".join(parts))
    return path
