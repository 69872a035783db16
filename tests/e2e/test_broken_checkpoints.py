"""Whatever is wrong with a checkpoint, every verb says so in one paragraph, with the right exit code.

Nothing is ever left under a final name, and nothing is ever changed in the checkpoint.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli import main
from tests.checkpoints import edit_json, write_random_checkpoint

Breaker = Callable[[Path], object]
WEIGHTS = "model.safetensors"


def _header(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the header of the weights after `change` has had its way with it."""
    path = directory / WEIGHTS
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def _overlap(header: dict[str, Any]) -> None:
    names = [name for name in header if name != "__metadata__"]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]
    header[names[1]]["shape"] = header[names[0]]["shape"]


def _dtype(dtype: str) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        for name, entry in header.items():
            if name != "__metadata__":
                entry["dtype"] = dtype

    return change


def _truncate(directory: Path, name: str, keep: float = 0.5) -> None:
    path = directory / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def _loop(directory: Path, name: str) -> None:
    (directory / name).unlink()
    (directory / name).symlink_to(name)


def _jinja(text: str) -> Breaker:
    return lambda directory: (directory / "chat_template.jinja").write_text(text)


def _config(**changes: Any) -> Breaker:
    return lambda directory: edit_json(directory / "config.json", **changes)


def _adapter(directory: Path) -> None:
    (directory / WEIGHTS).rename(directory / "adapter_model.safetensors")
    (directory / "config.json").unlink()
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')


def _torch(directory: Path) -> None:
    (directory / WEIGHTS).rename(directory / "pytorch_model.bin")


def _index(weight_map: Mapping[str, str]) -> Breaker:
    def change(directory: Path) -> None:
        (directory / WEIGHTS).rename(directory / "model-00001-of-00002.safetensors")
        index = {"metadata": {}, "weight_map": dict(weight_map)}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


NEST = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"

BROKEN: dict[str, Breaker] = {
    "no config": lambda d: (d / "config.json").unlink(),
    "config is not JSON": lambda d: (d / "config.json").write_text("{,}"),
    "config is a list": lambda d: (d / "config.json").write_text("[]"),
    "config is binary": lambda d: (d / "config.json").write_bytes(b"\xff\xfe\x00"),
    "config nested without end": lambda d: (d / "config.json").write_text("[" * 100_000),
    "config has a text for a number": _config(hidden_size="many"),
    "config has a negative size": _config(num_hidden_layers=-2),
    "config has zero heads": _config(num_attention_heads=0),
    "architecture of another world": _config(architectures=["QuantumForCausalLM"]),
    "config disagrees with the weights": _config(hidden_size=512),
    "no weights": lambda d: (d / WEIGHTS).unlink(),
    "weights are torch pickles": _torch,
    "weights are truncated": lambda d: _truncate(d, WEIGHTS),
    "weights are a few bytes": lambda d: (d / WEIGHTS).write_bytes(b"\x01\x02\x03"),
    "weights claim a header of exabytes": lambda d: (d / WEIGHTS).write_bytes(b"\xff" * 64),
    "tensors overlap": lambda d: _header(d, _overlap),
    "a dtype nobody knows": lambda d: _header(d, _dtype("Q99")),
    "weights are integers": lambda d: _header(d, _dtype("I16")),
    "a tensor is gone": lambda d: _header(d, lambda h: h.pop("model.norm.weight")),
    "weights link to themselves": lambda d: _loop(d, WEIGHTS),
    "a shard is missing": _index({"model.norm.weight": "model-00002-of-00002.safetensors"}),
    "the index leads out of the directory": _index({"model.norm.weight": "../../etc/passwd"}),
    "only an adapter": _adapter,
    "bitsandbytes": _config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "no tokenizer": lambda d: (d / "tokenizer.json").unlink(),
    "tokenizer is truncated": lambda d: _truncate(d, "tokenizer.json"),
    "tokenizer is empty": lambda d: (d / "tokenizer.json").write_text("{}"),
    "tokenizer links to itself": lambda d: _loop(d, "tokenizer.json"),
    "no chat template": lambda d: (d / "chat_template.jinja").unlink(),
    "chat template with a syntax error": _jinja("{% for m in messages %}"),
    "chat template that loops without end": _jinja(NEST),
    "chat template with a giant range": _jinja("{% for i in range(10 ** 12) %}x{% endfor %}"),
    "chat template that wants all memory": _jinja("{{ 'a' * 10 ** 12 }}"),
    "chat template that counts to infinity": _jinja("{{ 9 ** (9 ** 9) }}"),
    "chat template that calls itself": _jinja("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
    "chat template that looks for Python": _jinja("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
}


ONLY_FOR_GGUF = {"architecture of another world"}
"""vLLM may well serve it."""


def _snapshot(directory: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in directory.iterdir():
        found[path.name] = str(path.readlink()) if path.is_symlink() else path.read_bytes()
    return found


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def _check_paragraph(result: Result) -> None:
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning:")]
    assert lines[0].startswith("error: ")
    assert len(lines) <= 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_checkpoint_is_one_paragraph_and_exit_code_3(kind: str, tmp_path: Path) -> None:
    model = write_random_checkpoint(tmp_path / "model", hidden=64, intermediate=64)
    BROKEN[kind](model)
    before = _snapshot(model)

    built = _run("build", model, "-o", tmp_path / "out" / "bundle")
    assert built.exit_code == 3, built.output
    _check_paragraph(built)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []

    inspected = _run("inspect", model, "--json")
    assert inspected.exit_code in (0, 3)
    findings = json.loads(inspected.stdout)["findings"]
    assert findings or kind in ONLY_FOR_GGUF, "inspect sees nothing wrong"
    assert _snapshot(model) == before


def test_the_same_checkpoint_unbroken_builds(tmp_path: Path) -> None:
    model = write_random_checkpoint(tmp_path / "model", hidden=64, intermediate=64)
    built = _run("build", model, "--type", "f16", "-o", tmp_path / "bundle")
    assert built.exit_code == 0, built.output


@pytest.mark.parametrize("verb", ["gguf", "build"])
def test_a_full_disk_is_one_paragraph_and_leaves_nothing(verb: str, tmp_path: Path) -> None:
    model = write_random_checkpoint(tmp_path / "model")
    out = tmp_path / "out"
    out.mkdir()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    target = out if verb == "gguf" else out / "bundle"
    command = [sys.executable, "-m", "cli", verb, str(model), "--type", "f16", "-o", str(target)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=limit, env=environment, timeout=60
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("error: Cannot write")
    assert "Traceback" not in done.stderr
    assert list(out.iterdir()) == []
