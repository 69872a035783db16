"""A LoRA adapter as a GGUF file: what it holds, what it refuses, and what llama.cpp makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint
from cli import main
from convert import plan_conversion, plan_lora, read_gguf, run_conversion
from errors import ConversionError, UsageError
from tests.adapters import random_pairs, write_adapter
from tests.convert.gguf_bytes import metadata, tensor_bytes
from tests.convert.llamacpp_server import LlamaCpp, llamacpp

Make = Callable[..., Path]

_ALL = {
    "model.layers.0.self_attn.q_proj": (256, 256),
    "model.layers.0.self_attn.k_proj": (128, 256),
    "model.layers.0.self_attn.v_proj": (128, 256),
    "model.layers.1.self_attn.q_proj": (256, 256),
    "model.layers.1.self_attn.o_proj": (256, 256),
    "model.layers.1.mlp.down_proj": (256, 512),
}


def _convert(base: Path, adapter: Path, output: Path, *types: str) -> list[Path]:
    checkpoint = Checkpoint.open(base).with_adapter(adapter)
    return [file.path for file in run_conversion(plan_lora(checkpoint, types or ("f32",), output))]


def _tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {
        tensor.name: np.frombuffer(tensor_bytes(path, tensor), np.float32).reshape(tensor.shape)
        for tensor in read_gguf(path).tensors
    }


def test_the_rows_of_q_and_k_follow_llamas_layout(make_checkpoint: Make, tmp_path: Path) -> None:
    base, pairs = make_checkpoint(), random_pairs(modules=_ALL)
    (path,) = _convert(base, write_adapter(tmp_path / "tuned", pairs), tmp_path)
    assert path.name == "tuned-F32-LoRA.gguf"
    found = _tensors(path)
    assert len(found) == 2 * len(pairs)
    for name, heads in (("q", 4), ("k", 2)):
        a, b = pairs[f"model.layers.0.self_attn.{name}_proj"]
        moved = b.reshape(heads, 2, -1, 4).swapaxes(1, 2).reshape(b.shape)
        assert np.array_equal(found[f"blk.0.attn_{name}.weight.lora_a"], a)
        assert np.array_equal(found[f"blk.0.attn_{name}.weight.lora_b"], moved)
    assert np.array_equal(found["blk.1.ffn_down.weight.lora_b"], pairs["model.layers.1.mlp.down_proj"][1])
    fields = metadata(path)
    assert (fields["general.type"], fields["adapter.type"]) == ("adapter", "lora")
    assert fields["adapter.lora.alpha"] == 8


@pytest.mark.parametrize("config", [{"use_rslora": True}, {"alpha_pattern": {"down_proj": 2, "q_proj": 24}}])
def test_what_one_alpha_does_not_say_is_in_b(
    make_checkpoint: Make, tmp_path: Path, config: dict[str, Any]
) -> None:
    base, pairs = make_checkpoint(), random_pairs()
    adapter = write_adapter(tmp_path / "tuned", pairs, **config)
    found = _tensors(_convert(base, adapter, tmp_path)[0])
    a, b = pairs["model.layers.1.mlp.down_proj"]
    scale = 4.0 if "use_rslora" in config else 0.5
    added = 8 / 4 * found["blk.1.ffn_down.weight.lora_b"] @ found["blk.1.ffn_down.weight.lora_a"]
    assert np.allclose(added, scale * b @ a, atol=1e-5)


def test_a_q8_0_adapter_has_halves_where_rows_are_short(make_checkpoint: Make, tmp_path: Path) -> None:
    paths = _convert(
        make_checkpoint(), write_adapter(tmp_path / "a", random_pairs()), tmp_path, "q8_0", "f16"
    )
    types = {tensor.name[-6:]: tensor.type for tensor in read_gguf(paths[0]).tensors}
    assert types == {"lora_a": "Q8_0", "lora_b": "F16"}


def test_what_no_pair_says_is_refused(make_checkpoint: Make, tmp_path: Path) -> None:
    base = make_checkpoint("base", tied=True)
    head = np.full((271, 256), 0x3F80, np.uint16)

    def message(adapter: Path, model: Path = base) -> str:
        with pytest.raises(ConversionError) as caught:
            _convert(model, adapter, tmp_path)
        assert "portside merge" in str(caught.value)
        return caught.value.message

    whole = write_adapter(tmp_path / "a", random_pairs(), whole={"lm_head.weight": ("BF16", head)})
    assert "holds lm_head.weight as a whole" in message(whole)
    tied = write_adapter(tmp_path / "b", random_pairs(modules={"lm_head": (271, 256)}))
    assert "ties to another" in message(tied)
    with pytest.raises(UsageError, match="not written as q4_k_m"):
        _convert(base, write_adapter(tmp_path / "c", random_pairs()), tmp_path, "q4_k_m")


def test_llamacpp_with_the_adapter_says_what_the_merged_model_says(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    base = make_checkpoint("base", dtype="F32")
    pairs = random_pairs(modules=_ALL)
    configs: tuple[dict[str, Any], ...] = ({}, {"use_rslora": True})
    for config in configs:
        adapter = write_adapter(tmp_path / "tuned", pairs, **config)
        (lora,) = _convert(base, adapter, tmp_path)
        checkpoint = Checkpoint.open(base)
        (plain,) = run_conversion(plan_conversion(checkpoint, ["f32"], tmp_path / "plain"))
        (merged,) = run_conversion(
            plan_conversion(checkpoint.with_adapter(adapter), ["f32"], tmp_path / "merged")
        )
        asked = {}
        for name, model, adapters in (
            ("plain", plain.path, ()),
            ("with", plain.path, (lora,)),
            ("merged", merged.path, ()),
        ):
            with llamacpp(model, tmp_path / "log", adapters) as server:
                asked[name] = _probabilities(server)
        apart, tuned = (_apart(asked[name], asked["merged"]) for name in ("with", "plain"))
        assert apart < 2e-3
        assert tuned > 100 * apart


def _apart(one: dict[int, float], other: dict[int, float]) -> float:
    """Return the largest difference over the tokens that both list."""
    both = one.keys() & other.keys()
    assert len(both) > 50
    return max(abs(one[token] - other[token]) for token in both)


def _probabilities(server: LlamaCpp) -> dict[int, float]:
    """Return the logarithm of the probability of the 200 likeliest tokens to come."""
    # Half a character has no probabilities in the answer, so the token must be a letter.
    body = {"prompt": "hello world", "n_predict": 1, "n_probs": 271, "grammar": "root ::= [a-z]+"}
    (first,) = server.post("/completion", body)["completion_probabilities"]
    return {item["id"]: item["logprob"] for item in first["top_logprobs"][:200]}


def test_the_commands(make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = make_checkpoint("base")
    adapter = write_adapter(tmp_path / "tuned", random_pairs())

    def portside(*arguments: str | Path) -> Any:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--json"])
        answer = json.loads(capsys.readouterr().out)
        return answer if not ended.value.code else (ended.value.code, answer["error"]["message"])

    given = ("gguf", base, "--adapter", adapter, "--adapter-only", "-o", tmp_path / "out")
    assert portside(*given, "--dry-run")["files"][0]["type"] == "f32"
    (file,) = portside(*given, "--type", "f16")["files"]
    assert Path(file["path"]) == tmp_path / "out" / "tuned-F16-LoRA.gguf"
    assert portside("gguf", base, "--adapter-only") == (2, "--adapter-only needs --adapter.")
    text = portside(
        *("modelfile", base, "--gguf", tmp_path / "out" / "base-Q8_0.gguf", "--adapter-gguf", file["path"]),
        *("-o", tmp_path / "out" / "Modelfile"),
    )["modelfile"]
    assert "\nFROM ./base-Q8_0.gguf\n" in text
    assert "ADAPTER" in text
    assert "./tuned-F16-LoRA.gguf" in text
    code, told = portside("gguf", adapter)
    assert code == 3
    assert "holds a LoRA adapter" in told
