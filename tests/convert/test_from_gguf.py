"""Architectures that only llama.cpp's converter knows: driven, quantized, and nothing temporary left.

The converter here is a script of a few lines; test_from_gguf_llamacpp.py has the real one.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from chat_templates import analyse_stops, load_source
from checkpoint import Checkpoint
from convert import plan_from_gguf, read_gguf, run_conversion
from convert.kernels import Stored, load_ggml
from convert.llama_cpp import converted, find_checkout
from convert.types import TENSOR_TYPES
from errors import ConversionError, EngineMissing, OutputError, PortsideError, UsageError
from tests.checkpoints import edit_json
from tests.convert.foreign import write_gpt2
from tests.convert.gguf_bytes import metadata, tensor_bytes

Make = Callable[..., Path]

_CONVERTER = """
import sys
model, target = sys.argv[1], sys.argv[sys.argv.index("--outfile") + 1]
import gguf, json, numpy as np
tokens = [f"t{number}" for number in range(268)] + ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
writer = gguf.GGUFWriter(target, "gpt2")
writer.add_block_count(1)
writer.add_head_count(4)
writer.add_file_type(0)
writer.add_float32("gpt2.attention.layer_norm_epsilon", 1e-5)
writer.add_token_list(tokens)
writer.add_array("some.words", ["one", "two"])
writer.add_chat_template("{{ 'the converter wrote this' }}")
writer.add_eos_token_id(268)
random = np.random.default_rng(0)
for name, shape in {"token_embd.weight": (271, 256), "position_embd.weight": (512, 256),
                    "blk.0.attn_qkv.weight": (768, 256), "blk.0.attn_norm.weight": (256,),
                    "blk.0.ffn_down.weight": (256, 512)}.items():
    writer.add_tensor(name, random.normal(0, 0.05, shape).astype(np.float32))
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
"""


@pytest.fixture
def model(make_checkpoint: Make, tmp_path: Path) -> Checkpoint:
    return Checkpoint.open(write_gpt2(tmp_path / "gpt2", make_checkpoint("tokenizer"), rows=271, layers=1))


def _checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str = _CONVERTER) -> Path:
    directory = tmp_path / "llama.cpp"
    directory.mkdir(exist_ok=True)
    (directory / "convert_hf_to_gguf.py").write_text(script)
    monkeypatch.setenv("LLAMA_CPP_PYTHON", sys.executable)
    return directory


def test_the_output_is_quantized_and_gone(
    model: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, out = find_checkout(_checkout(tmp_path, monkeypatch)), tmp_path / "out"
    source = load_source("checkpoint", model)
    with converted(checkout, model, out) as file:
        values = {
            tensor.name: np.frombuffer(tensor_bytes(file, tensor), np.float32).reshape(tensor.shape)
            for tensor in read_gguf(file).tensors
        }
        before = metadata(file)
        plan = plan_from_gguf(
            model, file, ("q4_k_m", "q8_0"), out, source=source, stops=analyse_stops(source, model)
        )
        assert json.loads(json.dumps(plan.as_json()))["architecture"] == "GPT2LMHeadModel"
        files = run_conversion(plan)
    assert sorted(path.name for path in out.iterdir()) == ["gpt2-Q4_K_M.gguf", "gpt2-Q8_0.gguf"]
    for made, number in zip(files, (15, 7), strict=True):
        changed = {
            "general.file_type": number,
            "general.quantization_version": 2,
            "tokenizer.chat_template": source.jinja,
            "tokenizer.ggml.eot_token_id": 270,
        }
        assert metadata(made.path) == {**before, **changed}
        for tensor in read_gguf(made.path).tensors:
            kind, rows = TENSOR_TYPES[tensor.type], values[tensor.name]
            if kind.quantized:
                expected = load_ggml().quantize(Stored(np.ascontiguousarray(rows), "F32"), kind)
                assert tensor_bytes(made.path, tensor) == expected.tobytes()
    types = {tensor.name: tensor.type for tensor in read_gguf(files[0].path).tensors}
    assert types["position_embd.weight"] == types["blk.0.attn_norm.weight"] == "F32"
    assert types["token_embd.weight"] == "Q6_K"


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ("import torsh", EngineMissing, "needs the package torsh"),
        ("raise SystemExit('ERROR: Model GPT2LMHeadModel is not supported')", ConversionError, "either"),
        ("raise TypeError('BPE pre-tokenizer was not recognized')", ConversionError, "the pre-tokenizer"),
        ("raise KeyError('n_ctx')", ConversionError, "KeyError: 'n_ctx'"),
        ("raise OSError(28, 'No space left on device')", OutputError, "ran out of space"),
        ("", ConversionError, "it gave no reason"),
    ],
)
def test_what_goes_wrong_in_the_converter(
    model: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    kind: type[PortsideError],
    message: str,
) -> None:
    checkout = find_checkout(_checkout(tmp_path, monkeypatch, script))
    with pytest.raises(kind, match=message), converted(checkout, model, tmp_path / "out"):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_what_goes_wrong_afterwards(
    model: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = find_checkout(_checkout(tmp_path, monkeypatch))
    with pytest.raises(RuntimeError), converted(checkout, model, tmp_path / "out") as file:
        assert file.is_file()
        raise RuntimeError
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.setattr("convert.llama_cpp.shutil.disk_usage", lambda _: type("Usage", (), {"free": 99}))
    with pytest.raises(OutputError, match="only 99 bytes left"), converted(checkout, model, tmp_path / "out"):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_code_of_a_checkpoint_is_not_run_unasked(
    model: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = find_checkout(_checkout(tmp_path, monkeypatch))
    (model.path / "modeling_gpt2.py").write_text("raise SystemExit")
    with pytest.raises(ConversionError, match="modeling_gpt2"), converted(checkout, model, tmp_path / "out"):
        pass
    with converted(checkout, model, tmp_path / "out", trust_code=True) as file:
        assert file.is_file()
    (model.path / "modeling_gpt2.py").unlink()
    edit_json(model.path / "config.json", auto_map={"AutoModel": "other/repo--modeling.Model"})
    other = Checkpoint.open(model.path)
    with pytest.raises(ConversionError, match="auto_map"), converted(checkout, other, tmp_path / "out"):
        pass


def test_a_checkout_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineMissing, match=r"is no llama\.cpp checkout"):
        find_checkout(tmp_path)
    directory = _checkout(tmp_path, monkeypatch)
    monkeypatch.setenv("LLAMA_CPP_PYTHON", "/no/such/python")
    with pytest.raises(EngineMissing, match="names /no/such/python"):
        find_checkout(directory)
    monkeypatch.delenv("LLAMA_CPP_PYTHON")
    with pytest.raises(EngineMissing, match=r"has no \.venv"):
        find_checkout(directory)
    (directory / ".venv" / "bin").mkdir(parents=True)
    (directory / ".venv" / "bin" / "python").symlink_to(sys.executable)
    assert find_checkout(directory).python == str(directory / ".venv" / "bin" / "python")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.engines)])
def test_a_signal_ends_the_converter_and_leaves_nothing(
    model: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    pid_file = tmp_path / "pid"
    script = f"import os, time, pathlib; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()) + ' ')\n"
    directory = _checkout(tmp_path, monkeypatch, script + "time.sleep(60)")
    command = [sys.executable, "-m", "cli", "gguf", str(model.path), "--llama-cpp", str(directory)]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "out")], stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    while not pid_file.exists() or not pid_file.read_text().endswith(" "):
        assert process.poll() is None
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert list((tmp_path / "out").iterdir()) == []
    assert not Path(f"/proc/{int(pid_file.read_text())}").exists()


def test_types_are_checked_first(model: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from commands.foreign import convert_with_llama_cpp
    from convert import TypeChoices

    directory = _checkout(tmp_path, monkeypatch, "raise SystemExit('must not run')")

    def run(*types: str, pre: str | None = None) -> None:
        convert_with_llama_cpp(
            directory,
            model,
            types,
            tmp_path / "out",
            source=None,
            stops=None,
            choices=TypeChoices(),
            importance=None,
            split=None,
            pre=pre,
            threads=None,
            kernels="auto",
            trust_code=False,
            dry_run=False,
        )

    with pytest.raises(UsageError, match="q9"):
        run("q9")
    with pytest.raises(UsageError, match="--pre"):
        run("q8_0", pre="qwen2")
    assert not (tmp_path / "out").exists()
