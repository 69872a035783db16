"""What is written: every type's bytes, several files in one pass, and nothing at all after a failure."""

from __future__ import annotations

import errno
import hashlib
import json
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import convert.run
from checkpoint import Checkpoint
from convert import TYPES, ConversionPlan, plan_conversion, read_gguf, run_conversion
from convert.kernels import Stored, load_ggml
from convert.types import TENSOR_TYPES
from convert.writer import GgufStream
from errors import ConversionError, OutputError
from tests.checkpoints import write_random_checkpoint, write_safetensors
from tests.convert.gguf_bytes import tensor_bytes, tensor_digests

_LARGEST_ERROR = {
    # of values of deviation 0.05, relative to the tensor's root mean square
    "F32": 0.0,
    "BF16": 0.003,
    "F16": 0.0005,
    "Q8_0": 0.008,
    "Q6_K": 0.025,
    "Q5_K": 0.05,
    "Q5_1": 0.05,
    "Q5_0": 0.06,
    "Q4_K": 0.09,
    "Q4_1": 0.1,
    "Q4_0": 0.12,
    "Q3_K": 0.2,
    "Q2_K": 0.4,
}

Make = Callable[..., Path]


def _plan(directory: Path, types: tuple[str, ...], output: Path) -> ConversionPlan:
    return plan_conversion(Checkpoint.open(directory), types, output)


def _values(directory: Path, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    bits = Checkpoint.open(directory).weights.raw(name).astype(np.uint32) << 16
    return bits.view(np.float32)


def _halves_to_pairs(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Llama's q and k: row i and row i + half of a head become neighbours."""
    split = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return np.stack([split[:, 0], split[:, 1]], axis=2).reshape(rows.shape)


def test_every_type_is_ggml_on_the_whole_tensor(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint(heads=8, kv_heads=2, layers=3, vocab=2048)
    files = run_conversion(_plan(directory, TYPES, tmp_path / "out"))
    names = {
        "token_embd.weight": ("model.embed_tokens.weight", None),
        "output.weight": ("lm_head.weight", None),
        "blk.1.attn_q.weight": ("model.layers.1.self_attn.q_proj.weight", 8),
        "blk.1.attn_k.weight": ("model.layers.1.self_attn.k_proj.weight", 2),
        "blk.2.attn_v.weight": ("model.layers.2.self_attn.v_proj.weight", None),
        "blk.2.ffn_down.weight": ("model.layers.2.mlp.down_proj.weight", None),
        "blk.0.attn_norm.weight": ("model.layers.0.input_layernorm.weight", None),
    }
    for file in files:
        tensors = {tensor.name: tensor for tensor in read_gguf(file.path).tensors}
        assert len(tensors) == 3 + 9 * 3
        for name, (source, heads) in names.items():
            values = _values(directory, source)
            values = values if heads is None else _halves_to_pairs(values, heads)
            matrix = np.ascontiguousarray(values.reshape(-1, values.shape[-1]))
            data = tensor_bytes(file.path, tensors[name])
            kind = TENSOR_TYPES[tensors[name].type]
            assert data == load_ggml().quantize(Stored(matrix, "F32"), kind).tobytes()
            _check_error(data, matrix, kind.name)


def _check_error(data: bytes, values: np.ndarray[Any, Any], kind: str) -> None:
    back = gguf.quants.dequantize(np.frombuffer(data, np.uint8), gguf.GGMLQuantizationType[kind])
    scale = np.sqrt(np.mean(values**2))
    error = np.sqrt(np.mean((back.reshape(values.shape) - values) ** 2)) / scale
    assert error <= _LARGEST_ERROR[kind]


def test_files_made_together_and_apart_are_the_same(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint(dtype="F16", shards=3)
    types = ("q4_k_m", "q8_0", "f32", "q2_k")
    together = run_conversion(_plan(directory, types, tmp_path / "together"), threads=3)
    for file in together:
        (alone,) = run_conversion(_plan(directory, (file.type,), tmp_path / "alone"), threads=1)
        assert (alone.bytes, alone.sha256) == (file.bytes, file.sha256)
        content = file.path.read_bytes()
        assert hashlib.sha256(content).hexdigest() == file.sha256
        assert len(content) == file.bytes
        assert file.path.name == f"model-{file.type.upper()}.gguf"


def test_small_blocks_change_nothing(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_checkpoint(bias=True)
    (large,) = run_conversion(_plan(directory, ("q5_k_m",), tmp_path / "large"))
    monkeypatch.setattr(convert.run, "_BLOCK", 700)
    (small,) = run_conversion(_plan(directory, ("q5_k_m",), tmp_path / "small"))
    assert small.sha256 == large.sha256


def test_dtypes_give_the_same_f32(make_checkpoint: Make, tmp_path: Path) -> None:
    """bf16 values are exact in float32, so both checkpoints hold the same numbers."""
    bf16 = make_checkpoint("bf16")
    f32 = make_checkpoint("f32", dtype="F32")
    weights = Checkpoint.open(bf16).weights
    widened = {name: ("F32", _values(bf16, name)) for name in weights.names}
    write_safetensors(f32 / "model.safetensors", widened)
    first, second = (
        run_conversion(_plan(directory, ("f32", "q4_k_m"), tmp_path / "out")) for directory in (bf16, f32)
    )
    for one, other in zip(first, second, strict=True):
        assert tensor_digests(one.path) == tensor_digests(other.path)


def test_progress_rises_to_the_whole(make_checkpoint: Make, tmp_path: Path) -> None:
    plan = _plan(make_checkpoint(), ("q8_0", "f16"), tmp_path / "out")
    seen: list[tuple[int, int]] = []
    run_conversion(plan, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (plan.bytes, plan.bytes)
    assert plan.bytes == sum(file.path.stat().st_size for file in plan.files)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["f32", "q4_0", "q8_0"])
def test_values_that_are_not_finite_are_refused_by_name(
    make_checkpoint: Make, tmp_path: Path, dtype: str, value: float, kind: str
) -> None:
    directory = make_checkpoint(dtype=dtype, layers=1, hidden=64, intermediate=64)
    name = "model.layers.0.mlp.up_proj.weight"
    _poke(directory, name, value)
    plan = _plan(directory, (kind,), tmp_path / "out")
    with pytest.raises(ConversionError, match=f"{name} holds 1 value that"):
        run_conversion(plan)
    assert list((tmp_path / "out").iterdir()) == []


def _poke(directory: Path, name: str, value: float) -> None:
    """Write `value` into the middle of a stored tensor."""
    info = Checkpoint.open(directory).weights.info(name)
    array = np.array([value], np.float32)
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    brain = (array.view(np.uint32) >> 16).astype(np.uint16)
    data = {"F32": array.tobytes(), "F16": half.tobytes(), "BF16": brain.tobytes()}
    at = info.start + (info.end - info.start) // 2
    with info.file.open("r+b") as stream:
        stream.seek(at)
        stream.write(data[info.dtype])


def test_values_too_large_for_the_type_are_refused(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint(layers=1, dtype="F32")
    _poke(directory, "model.layers.0.mlp.up_proj.weight", 1e6)
    (file,) = run_conversion(_plan(directory, ("bf16",), tmp_path / "out"))
    assert file.path.exists()
    with pytest.raises(ConversionError, match="up to 1e\\+06, which do not fit into F16"):
        run_conversion(_plan(directory, ("f16",), tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [file.path.name]


def test_weights_that_changed_are_refused(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint()
    plan = _plan(directory, ("q8_0",), tmp_path / "out")
    write_random_checkpoint(directory, seed=5)
    with pytest.raises(ConversionError, match="have changed"):
        run_conversion(plan)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bug")])
def test_an_interruption_leaves_nothing(make_checkpoint: Make, tmp_path: Path, error: BaseException) -> None:
    plan = _plan(make_checkpoint(), ("q4_k_m", "q8_0"), tmp_path / "out")
    old = plan.files[0].path
    old.parent.mkdir()
    old.write_text("the file of yesterday")
    threads = threading.active_count()

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise error

    with pytest.raises(type(error)):
        run_conversion(plan, progress=interrupt)
    assert [path.name for path in old.parent.iterdir()] == [old.name]
    assert old.read_text() == "the file of yesterday"
    assert threading.active_count() == threads


def test_control_c_leaves_nothing(make_checkpoint: Make, tmp_path: Path) -> None:
    """A real SIGINT in the middle of the work, in a process of its own."""
    directory, out = make_checkpoint(hidden=512, vocab=1 << 16, tied=True), tmp_path / "out"
    script = (
        "from pathlib import Path; from checkpoint import Checkpoint\n"
        "from convert import plan_conversion, run_conversion\n"
        f"plan = plan_conversion(Checkpoint.open(Path({str(directory)!r})), ['q2_k'], Path({str(out)!r}))\n"
        "try: run_conversion(plan, threads=1, progress=lambda done, total: print(done, flush=True))\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert [path.suffix for path in out.iterdir()] == [".part"]
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=30)[0].split()
    assert (process.returncode, rest[-1]) == (0, "interrupted")
    assert list(out.iterdir()) == []


def test_a_full_disk_leaves_nothing(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan(make_checkpoint(), ("q8_0", "q4_0"), tmp_path / "out")
    write = GgufStream.write

    class Full:
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def fill(self: GgufStream, data: Any) -> None:
        if self.bytes > 100_000 and self._path.name.endswith("Q4_0.gguf"):
            self._stream = Full()  # type: ignore[assignment]
        write(self, data)

    monkeypatch.setattr(GgufStream, "write", fill)
    with pytest.raises(OutputError, match=r"model-Q4_0\.gguf: No space left"):
        run_conversion(plan)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_limit_of_the_system_is_reported(make_checkpoint: Make, tmp_path: Path) -> None:
    """A real refusal by the kernel: a limit on the size of files, in a process of its own."""
    directory, out = make_checkpoint(), tmp_path / "out"
    script = (
        "import resource, signal, sys; from pathlib import Path; from checkpoint import Checkpoint\n"
        "from convert import plan_conversion, run_conversion; from errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, {resource.RLIM_INFINITY}))\n"
        f"plan = plan_conversion(Checkpoint.open(Path({str(directory)!r})), ['q8_0'], Path({str(out)!r}))\n"
        "try: run_conversion(plan)\n"
        "except OutputError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert "File too large" in done.stdout
    assert list(out.iterdir()) == []


def test_too_little_space_is_known_beforehand(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan(make_checkpoint(), ("f32",), tmp_path / "out" / "deep")
    monkeypatch.setattr("convert.run.shutil.disk_usage", lambda path: type("Usage", (), {"free": 10_000}))
    with pytest.raises(OutputError, match="only 10,000 bytes left"):
        run_conversion(plan)
    assert not (tmp_path / "out").exists()


def test_memory_stays_flat(make_checkpoint: Make, tmp_path: Path) -> None:
    """What Python and numpy allocate does not grow with the tensor: 64 MB of weights, a part in memory."""
    import tracemalloc

    directory = make_checkpoint(hidden=512, layers=1, vocab=1 << 16, tied=True, intermediate=512)
    plan = _plan(directory, ("q8_0", "q4_0"), tmp_path / "out")
    tracemalloc.start()
    try:
        run_conversion(plan, threads=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6


def test_a_plan_is_json(make_checkpoint: Make, tmp_path: Path) -> None:
    plan = _plan(make_checkpoint(), ("Q4", "q4_k_m", "f16"), tmp_path)
    shown = json.loads(json.dumps(plan.as_json()))
    assert [file["type"] for file in shown["files"]] == ["q4_k_m", "f16"]
    assert shown["files"][0]["metadata"]["tokenizer.ggml.tokens"] == {
        "type": "array of string",
        "length": 271,
    }
    assert shown["files"][0]["path"] == str(tmp_path / "model-Q4_K_M.gguf")
    with pytest.raises(AttributeError):
        plan.name = "other"  # type: ignore[misc]
