"""What LMDeploy is told: an explicit template always, flags for the machine, no key that others can read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint import Checkpoint
from deploy import ServePlan, ServeRequest, plan_serving
from deploy.engines.accelerators import Accelerators, find_accelerators, tensor_parallel
from deploy.engines.lmdeploy import TEMPLATE
from errors import BadInput, EngineMissing, UsageError
from tests.checkpoints import edit_json

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, a PATH and an LMDeploy of the test's own; return the environment."""
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    root = tmp_path / "lmdeploy"
    (root / "lib/python3.12/site-packages/lmdeploy-0.18.0.dist-info").mkdir(parents=True)
    for name in ("python", "lmdeploy"):
        program(root / "bin" / name)
    monkeypatch.setenv("PORTSIDE_LMDEPLOY", str(root))
    return root


def program(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def gpus(tmp_path: Path, *gib: int) -> None:
    lines = [f"{index}, GPU-{index}abc, {size * 1024}" for index, size in enumerate(gib)]
    program(tmp_path / "bin" / "nvidia-smi", "\n".join(f"echo '{line}'" for line in lines))


def plan(model: Path, **options: object) -> ServePlan:
    return plan_serving(ServeRequest("lmdeploy", model, **options))  # type: ignore[arg-type]


def after(plan: ServePlan, flag: str) -> str:
    return plan.argv[plan.argv.index(flag) + 1]


def test_the_whole_command(make_checkpoint: MakeCheckpoint, own_world: Path) -> None:
    found = plan(make_checkpoint("mine"), source="family:qwen3", host="0.0.0.0", port=8123)
    assert found.argv == (
        *(str(own_world / "bin/lmdeploy"), "serve", "api_server", str(found.served)),
        *("--server-name", "0.0.0.0", "--server-port", "8123", "--model-name", "mine"),
        *("--chat-template", "hf"),
    )
    assert found.url == "http://127.0.0.1:8123"
    assert "no GPU was found, and LMDeploy has no engine for CPUs" in found.notes
    found.prepare()
    assert (found.served / "chat_template.jinja").is_file()


def test_a_template_that_json_can_say(make_checkpoint: MakeCheckpoint) -> None:
    found = plan(make_checkpoint(), source="family:qwen2.5")
    assert after(found, "--chat-template") == str(found.served / TEMPLATE)
    found.prepare()
    written = json.loads((found.served / TEMPLATE).read_text())
    assert written["eosys"] == "<|im_end|>\n"
    assert written["model_name"].startswith("portside-")


def test_as_is_the_template_is_still_explicit(make_checkpoint: MakeCheckpoint) -> None:
    model = make_checkpoint("llama2-chat")  # a name that LMDeploy would take for a template
    found = plan(model, as_is=True)
    assert found.served == model
    assert after(found, "--chat-template") == "hf"


def test_a_key_is_in_the_environment_only(make_checkpoint: MakeCheckpoint, own_world: Path) -> None:
    found = plan(make_checkpoint(), api_key="hush")
    assert "hush" not in " ".join(found.argv) + json.dumps(found.as_json())
    assert found.argv[:2] == (str(own_world / "bin/python"), "-c")
    assert found.argv[3:5] == ("serve", "api_server")
    assert "hush" in found.env.values()
    compile(found.argv[2], "bootstrap", "exec")


def test_a_program_of_its_own_takes_no_key(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = program(tmp_path / "wrapper")
    monkeypatch.setenv("PORTSIDE_LMDEPLOY", str(wrapper))
    assert plan(make_checkpoint()).argv[0] == str(wrapper)
    with pytest.raises(UsageError, match="where everybody on this machine can read them"):
        plan(make_checkpoint("other"), api_key="hush")


@pytest.mark.parametrize(
    ("method", "flag"), [("awq", "awq"), ("gptq", "gptq"), ("fp8", "fp8"), ("bitsandbytes", None)]
)
def test_quantized_formats(make_checkpoint: MakeCheckpoint, method: str, flag: str | None) -> None:
    model = make_checkpoint()
    edit_json(model / "config.json", quantization_config={"quant_method": method})
    found = plan(model)
    assert ("--model-format" in found.argv) == (flag is not None)
    if flag:
        assert after(found, "--model-format") == flag


def test_gpus_are_counted_and_used(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(tmp_path, 80, 40, 80)
    assert find_accelerators() == Accelerators("cuda", 3, 40 << 30)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert find_accelerators() == Accelerators("cuda", 2, 80 << 30)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    assert find_accelerators() == Accelerators("cuda", 1, 40 << 30)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_accelerators().kind == "none"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "--tp" not in plan(make_checkpoint()).argv  # small enough for one


@pytest.mark.parametrize(
    ("heads", "kv_heads", "gib", "count", "expected"),
    [
        (32, 8, 10, 8, 1),  # fits on one
        (32, 8, 140, 8, 4),
        (28, 4, 60, 8, 2),
        (28, 4, 130, 8, 4),
        (9, 3, 100, 4, 3),
        (32, 8, 900, 8, 8),  # too much even for all of them
        (7, 1, 200, 2, 1),  # 7 heads cannot be halved
    ],
)
def test_the_split_divides_the_heads(
    make_checkpoint: MakeCheckpoint, heads: int, kv_heads: int, gib: int, count: int, expected: int
) -> None:
    model = make_checkpoint(hidden=heads * 64, heads=heads, kv_heads=kv_heads, intermediate=64, layers=1)
    config = Checkpoint.open(model).config
    chosen, note = tensor_parallel(config, gib << 30, Accelerators("cuda", count, 80 << 30))
    assert chosen == expected
    assert note is not None
    assert ("may be too much" in note) == (gib / expected > 0.7 * 80)


def test_what_cannot_be_planned(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="is a GGUF file"):
        plan(tmp_path / "m.gguf")
    with pytest.raises(UsageError, match="one runtime"):
        plan(make_checkpoint(), runtime="x")
    monkeypatch.setenv("PORTSIDE_LMDEPLOY", str(tmp_path / "gone"))
    with pytest.raises(EngineMissing, match="gone names none"):
        plan(make_checkpoint("other"))
