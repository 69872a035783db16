"""Memory that a serving takes, estimated from its plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint import Checkpoint
from deploy import ServePlan, ServeRequest, plan_serving
from deploy.engines.accelerators import Accelerators
from deploy.memory import available_memory, kv_bytes_per_token, memory_need

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def llamacpp(model: Path, *args: str, gguf_type: str = "q8_0") -> ServePlan:
    request = ServeRequest("llamacpp", model, runtime="embedded", gguf_type=gguf_type, engine_args=args)
    return plan_serving(replace(request, port=0, as_is=True))


def fake_plan(engine: str, model: Checkpoint, *argv: str, env: dict[str, str] | None = None) -> ServePlan:
    return ServePlan(
        engine=engine,
        runtime="cpu" if env else engine,
        name="m",
        host="127.0.0.1",
        port=1,
        argv=(engine, *argv),
        env=env or {},
        cleared=(),
        served=model.path,
        log=Path("log"),
        startup_seconds=1,
        checkpoint=model,
    )


def test_llama_cpp_takes_the_file_and_a_cache_of_its_kv_heads(make_checkpoint: Make) -> None:
    model = make_checkpoint()
    config = Checkpoint.open(model).config
    assert config.kv_heads < config.heads, "this test is about GQA"
    small, large = llamacpp(model), llamacpp(model, gguf_type="f32")
    assert memory_need(small).weights < memory_need(large).weights
    assert memory_need(small).place == "RAM"
    token = 2 * config.layers * config.kv_heads * config.head_dim * 2
    assert memory_need(llamacpp(model, "--ctx-size", "1000")).cache == 1000 * token
    assert memory_need(llamacpp(model, "-c", "100")).cache == 100 * token
    assert memory_need(llamacpp(model, "--ctx-size=0")).cache == config.context_length * token
    quantized = llamacpp(model, "-c", "100", "--cache-type-k", "q8_0", "-ctv", "q8_0")
    assert memory_need(quantized).cache == pytest.approx(100 * token * 34 / 64, abs=1)
    assert memory_need(small, given=7).total == 7


def test_a_gguf_file_alone_tells_the_same(make_checkpoint: Make) -> None:
    model = make_checkpoint()
    of_checkpoint = llamacpp(model, "-c", "64")
    of_checkpoint.prepare()
    of_file = llamacpp(of_checkpoint.served, "-c", "64")
    assert memory_need(of_file) == memory_need(of_checkpoint)
    assert memory_need(of_file).cache > 0


def test_vllm_on_a_cpu_takes_its_dtype_and_the_space_it_is_given(make_checkpoint: Make) -> None:
    model = Checkpoint.open(make_checkpoint())
    space = {"VLLM_CPU_KVCACHE_SPACE": "3"}
    need = memory_need(fake_plan("vllm", model, "--dtype", "float32", env=space))
    assert need.weights == 4 * model.weights.parameters
    assert need.cache == 3 * 2**30
    assert memory_need(fake_plan("vllm", model, "--dtype", "auto", env=space)).weights == model.weights.bytes


def test_on_gpus_engines_reserve_their_share(make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Accelerators("cuda", 2, 80 * 2**30)
    monkeypatch.setattr("deploy.memory.find_accelerators", lambda: found)
    model = Checkpoint.open(make_checkpoint())
    need = memory_need(fake_plan("vllm", model, "--gpu-memory-utilization", "0.4"))
    assert (need.place, need.total) == ("GPU", round(0.4 * 80 * 2**30))
    both = memory_need(fake_plan("vllm", model, "--tensor-parallel-size", "2"))
    assert both.total == round(0.9 * 160 * 2**30)
    lmdeploy = memory_need(fake_plan("lmdeploy", model, "--cache-max-entry-count", "0.5"))
    assert lmdeploy.cache == round(0.5 * (80 * 2**30 - model.weights.bytes))
    assert available_memory("GPU") == (160 * 2**30, 160 * 2**30)


def test_latent_attention_keeps_one_vector(make_checkpoint: Make) -> None:
    config = Checkpoint.open(make_checkpoint()).config
    latent = replace(config, raw={**config.raw, "kv_lora_rank": 512, "qk_rope_head_dim": 64})
    assert kv_bytes_per_token(latent, 2.0) == config.layers * 576 * 2


def test_there_is_memory() -> None:
    free, total = available_memory("RAM")
    assert 2**20 < free <= total
