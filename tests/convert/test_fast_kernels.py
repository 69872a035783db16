"""The fast kernels against ggml: byte for byte, on every kind of block, on every instruction set at hand."""

from __future__ import annotations

import re
import shutil
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convert.kernels.fast
from checkpoint import Checkpoint
from convert import TYPES, plan_conversion, run_conversion
from convert.kernels import FAST_TYPES, Fast, Ggml, Stored, load_fast, load_ggml, load_kernels
from convert.kernels.fast import kernel_text
from convert.kernels.fast_build import Compiler, load_compiler
from convert.types import TENSOR_TYPES
from errors import EngineMissing, UsageError

llvm = pytest.importorskip("llvmlite.binding", reason="llvmlite is not installed (the extra `fast`)")

Floats = np.ndarray[Any, np.dtype[np.float32]]
Kind = Callable[[np.random.Generator, Floats], Any]

_MOST = np.finfo(np.float32).max
_PROCESSORS = ("x86-64", "x86-64-v3")


def _powers(low: float, high: float, sub: int) -> Kind:
    """Normal values, each run of `sub` of them times a power of ten of its own."""

    def make(rng: np.random.Generator, x: Floats) -> Any:
        shape = (len(x), 256 // sub, 1)
        return (x.reshape(len(x), -1, sub) * 10.0 ** rng.uniform(low, high, shape)).reshape(x.shape)

    return make


def _outlier(rng: np.random.Generator, x: Floats) -> Any:
    x = x * np.float32(1e-3)
    x[np.arange(len(x)), rng.integers(0, 256, len(x))] = rng.standard_normal(len(x)) * 1000
    return x


def _any_bits(rng: np.random.Generator, x: Floats) -> Any:
    values = rng.integers(0, 1 << 32, x.shape, np.uint32).view(np.float32)
    return np.where(np.isfinite(values), values, np.float32(0))


_KINDS: dict[str, Kind] = {
    "normal": lambda rng, x: x,
    "weights": lambda rng, x: x * np.float32(0.02),
    "bfloat16": lambda rng, x: (x.view(np.uint32) & 0xFFFF0000).view(np.float32),
    "uniform": lambda rng, x: rng.random(x.shape) - 0.3,
    "heavy-tailed": lambda rng, x: rng.standard_cauchy(x.shape),
    "constant": lambda rng, x: np.repeat(x[:, :1], 256, 1),
    "constant sub-blocks": lambda rng, x: np.repeat(x[:, ::16], 16, 1),
    "two values": lambda rng, x: np.where(x > 0, x[:, :1], x[:, 1:2]),
    "zero": lambda rng, x: x * 0,
    "signed zeros": lambda rng, x: np.where(x > 0, np.float32(0), np.float32(-0.0)),
    "positive": lambda rng, x: np.abs(x),
    "negative": lambda rng, x: -np.abs(x) - 1,
    "small integers": lambda rng, x: np.round(x * 3),
    "eighths": lambda rng, x: rng.integers(-8, 8, x.shape) / 8,
    "sparse": lambda rng, x: x * (rng.random(x.shape) < 0.05),
    "empty sub-blocks": lambda rng, x: x * np.repeat(rng.random((len(x), 16)) < 0.3, 16, 1),
    "one outlier": _outlier,
    "offset": lambda rng, x: x * np.float32(1e-3) + x[:, :1] * 10,
    "denormal": lambda rng, x: x * np.float32(1e-40),
    "near the empty limit": lambda rng, x: x * np.float32(1e-15),
    "huge": lambda rng, x: x * np.float32(3e37),
    "largest": lambda rng, x: np.where(x > 0, _MOST, -_MOST),
    "all sizes of block": _powers(-44, 37, 256),
    "small sub-blocks": _powers(-12, 0, 16),
    "all sizes of sub-block": _powers(-40, 37, 32),
    "any bits": _any_bits,
}


@pytest.fixture(scope="module")
def fast() -> Fast:
    return load_fast(forced=True)


def _blocks(kind: str, count: int) -> Floats:
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    x = rng.standard_normal((count, 256), np.float32)
    return np.ascontiguousarray(_KINDS[kind](rng, x), np.float32)


def _stored(values: Floats, dtype: str) -> Stored:
    """The values as a checkpoint may hold them: cut off to bfloat16, or rounded to float16 in its range."""
    if dtype == "BF16":
        return Stored((values.view(np.uint32) >> 16).astype(np.uint16), dtype)
    return Stored(np.clip(values, -65504, 65504).astype(np.float16) if dtype == "F16" else values, dtype)


def _assert_same(kernels: Fast, name: str, values: Floats, dtype: str = "F32") -> None:
    kind, stored = TENSOR_TYPES[name], _stored(values, dtype)
    wanted = load_ggml().quantize(stored, kind).reshape(-1, kind.block_bytes)
    made = kernels.quantize(stored, kind).reshape(-1, kind.block_bytes)
    different = np.flatnonzero((made != wanted).any(axis=1))
    assert not len(different), f"{name}: super-blocks {different[:10]} differ"


@pytest.mark.parametrize("kind", _KINDS)
def test_writes_the_bytes_of_ggml(fast: Fast, kind: str) -> None:
    values = _blocks(kind, 192)
    for name in FAST_TYPES:
        for dtype, scale in (("F32", 1), ("BF16", 1), ("F16", 1), ("F16", 1e-5)):
            _assert_same(fast, name, values[: 192 if dtype == "F32" else 64] * np.float32(scale), dtype)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_reads_every_number_of_sixteen_bits(fast: Fast, dtype: str) -> None:
    """As Q8_0 of blocks in which one number stands alone, so that its scale is made of it."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    bits = bits[(bits & 0x7FFF) < (0x7F80 if dtype == "BF16" else 0x7C00)]
    rows = np.zeros((len(bits), 32), np.uint16)
    rows[:, 5] = bits
    stored = Stored(rows if dtype == "BF16" else rows.view(np.float16), dtype)
    assert np.array_equal(stored.floats[:, 5].view(np.uint32) >> 31, bits >> 15)
    for name in ("Q8_0", "Q5_1"):
        kind = TENSOR_TYPES[name]
        assert np.array_equal(fast.quantize(stored, kind), load_ggml().quantize(stored, kind))


@pytest.mark.parametrize(("dtype", "number"), [("BF16", 0x7F7F), ("F16", 0x7BFF), ("F32", 0x7F7FFFFF)])
def test_values_that_are_not_finite_are_counted(dtype: str, number: int) -> None:
    kind = np.uint32 if dtype == "F32" else np.uint16
    bits = np.zeros((2, 256), kind)
    view = {"BF16": kind, "F16": np.float16, "F32": np.float32}[dtype]
    bits[1, 7] = number | 1 << (8 * bits.itemsize - 1)
    stored = Stored(bits.view(view), dtype)
    assert stored.largest() == abs(float(stored.floats[1, 7]))
    assert stored.not_finite() == 0
    bits[0, 3:5] = number + 1, number + 2
    assert stored.largest() == np.inf
    assert stored.not_finite() == 2


@pytest.mark.parametrize("processor", _PROCESSORS)
@pytest.mark.parametrize("name", FAST_TYPES)
def test_writes_the_same_bytes_on_lesser_processors(processor: str, name: str) -> None:
    """Registers of four and of eight floats, where wider vectors are taken apart."""
    if "x86" not in llvm.get_process_triple():
        pytest.skip("not an x86 machine")
    if processor == "x86-64-v3" and not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("no AVX2 here")
    kernels = Fast(Compiler(llvm, processor), load_ggml(), forced=True)
    for kind in _KINDS:
        _assert_same(kernels, name, _blocks(kind, 24))
    for dtype in ("BF16", "F16"):
        _assert_same(kernels, name, _blocks("all sizes of block", 24), dtype)


@pytest.mark.parametrize("name", FAST_TYPES)
def test_takes_any_number_of_super_blocks(fast: Fast, name: str) -> None:
    values = _blocks("normal", 19)
    for count in (1, 2, 3, 4, 5, 7, 8, 9, 19):
        _assert_same(fast, name, values[:count])
    _assert_same(fast, name, values[:18].reshape(3, 6 * 256))


@st.composite
def _tensors(draw: st.DrawFn) -> Floats:
    """Super-blocks whose sub-blocks differ in size, offset and how much of them is zero; a few odd values."""
    count = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    sub = draw(st.sampled_from((16, 32, 256)))
    low = draw(st.integers(-42, 34))
    high = draw(st.integers(low, min(low + draw(st.integers(0, 40)), 36)))
    x = _powers(low, high, sub)(rng, rng.standard_normal((count, 256), np.float32))
    if draw(st.booleans()):
        x = x + np.abs(x).max() * draw(st.floats(-4, 4))
    x = x * (rng.random(x.shape) < draw(st.sampled_from((0.02, 0.5, 1.0, 1.0))))
    for value in draw(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=4)):
        x[rng.integers(0, count), rng.integers(0, 256)] = value
    values: Floats = np.clip(x, -_MOST, _MOST).astype(np.float32)
    return values


@settings(max_examples=10, deadline=None)
@given(values=_tensors(), dtype=st.sampled_from(("F32", "BF16", "F16")))
def test_agrees_with_ggml_whatever_the_weights(values: Floats, dtype: str) -> None:
    kernels = load_fast(forced=True)
    for name in FAST_TYPES:
        _assert_same(kernels, name, values, dtype)


@pytest.mark.parametrize(
    "name",
    [
        name if index % 3 == 0 else pytest.param(name, marks=pytest.mark.engines)
        for index, name in enumerate(FAST_TYPES)
    ],
)
def test_rounds_after_every_operation(name: str) -> None:
    """No flag lets LLVM fuse or reorder, and on a processor with fused multiply-add none is used."""
    text, _ = kernel_text(name, "BF16", wide=False)
    assert not re.search(r"\b(fast|contract|reassoc|nnan|ninf|nsz|arcp|afn)\b", text)
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    assembly = target.create_target_machine(cpu="x86-64-v3", opt=3).emit_assembly(llvm.parse_assembly(text))
    assert "vmulps" in assembly
    assert "fmadd" not in assembly


def test_threads_share_the_kernels() -> None:
    kernels, values = load_fast(forced=True), _blocks("normal", 64)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(_assert_same, kernels, name, values) for name in FAST_TYPES * 4]:
            future.result()


def test_a_conversion_is_the_same_with_any_kernels(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    directory = make_checkpoint(hidden=256, intermediate=768)
    types = ("q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k")
    digests = {}
    for choice in ("ggml", "fast", "auto"):
        plan = plan_conversion(Checkpoint.open(directory), types, tmp_path / choice)
        digests[choice] = [file.sha256 for file in run_conversion(plan, kernels=choice)]
    assert digests["fast"] == digests["ggml"] == digests["auto"]


def test_keeps_and_mends_compiled_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path))
    values = _blocks("normal", 8)
    for _ in range(2):
        _assert_same(Fast(Compiler(llvm), load_ggml(), forced=True), "Q6_K", values)
        (file,) = (tmp_path / "kernels").iterdir()
        whole = file.read_bytes()
        file.write_bytes(whole[:-100] + bytes(100))
    _assert_same(Fast(Compiler(llvm), load_ggml(), forced=True), "Q6_K", values)
    assert file.read_bytes() == whole


def test_needs_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "file"))
    _assert_same(Fast(Compiler(llvm), load_ggml(), forced=True), "Q6_K", _blocks("normal", 8))


def test_a_kernel_that_disagrees_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(name: str, dtype: str, *, wide: bool) -> tuple[str, int]:
        text, least = kernel_text(name, dtype, wide=wide)
        return text.replace("fmul", "fadd", 1), least

    monkeypatch.setattr(convert.kernels.fast, "kernel_text", wrong)
    values = _blocks("normal", 8)
    _assert_same(Fast(Compiler(llvm), load_ggml(), forced=False), "Q4_K", values)
    with pytest.raises(EngineMissing, match="does not give the bytes"):
        Fast(Compiler(llvm), load_ggml(), forced=True).quantize(_stored(values, "F32"), TENSOR_TYPES["Q4_K"])


def test_falls_back_to_ggml_without_llvmlite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    load_compiler.cache_clear()
    try:
        assert isinstance(load_kernels("auto"), Ggml)
        with pytest.raises(EngineMissing, match="llvmlite"):
            load_kernels("fast")
    finally:
        load_compiler.cache_clear()


def test_names_the_kernels_there_are() -> None:
    assert isinstance(load_kernels("auto"), Fast)
    assert isinstance(load_kernels("ggml"), Ggml)
    with pytest.raises(UsageError, match="no kernels 'slow'"):
        load_kernels("slow")


@pytest.mark.engines
@pytest.mark.parametrize("name", FAST_TYPES)
def test_agrees_with_ggml_on_hundreds_of_thousands_of_blocks(name: str, fast: Fast) -> None:
    """Three million super-blocks in all types together: too long for the quick tests."""
    for number, make in enumerate(_KINDS.values()):
        rng = np.random.default_rng([zlib.crc32(name.encode()), number])
        x = rng.standard_normal((12_000, 256), np.float32)
        values = np.ascontiguousarray(make(rng, x), np.float32)
        for dtype in ("F32", "BF16", "F16"):
            _assert_same(fast, name, values, dtype)


@pytest.mark.engines
def test_the_sample_is_the_same_with_any_kernels(sample: Path, tmp_path: Path) -> None:
    digests = {}
    for choice in ("ggml", "fast"):
        plan = plan_conversion(Checkpoint.open(sample), TYPES, tmp_path / choice)
        digests[choice] = {file.type: file.sha256 for file in run_conversion(plan, kernels=choice)}
        shutil.rmtree(tmp_path / choice)
    assert digests["fast"] == digests["ggml"]
    assert set(digests["fast"]) == set(TYPES)
