"""Comparing quantizations and answers: the arithmetic, the process, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from chat_templates import analyse_stops, load_source
from checkpoint import Checkpoint
from commands.plots import bars
from deploy.compare.answers import Answer, Token, part
from deploy.compare.divergence import log_probabilities, positions, summarize
from deploy.compare.quantizations import Comparison, compare_quantizations
from errors import BadInput


def test_the_figures_of_a_case_worked_out_by_hand() -> None:
    reference = np.log(np.array([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]], np.float32))
    model = np.log(np.array([[0.25, 0.5, 0.25], [0.8, 0.1, 0.1]], np.float32))
    found = summarize(positions(model, reference, np.array([0, 1])))
    first = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert found.kl == pytest.approx(first / 2, rel=1e-6)
    assert found.kl_max == pytest.approx(first, rel=1e-6)
    assert found.perplexity == pytest.approx(math.sqrt(4 * 10), rel=1e-6)
    assert found.same_top == 0.5
    assert found.rms_shift == pytest.approx(0.25 / math.sqrt(2), rel=1e-6)
    assert found.tokens == 2


def test_log_probabilities_of_large_logits() -> None:
    found = log_probabilities(np.array([[1000.0, 1000.0], [-1000.0, 0.0]], np.float32))
    assert found[0] == pytest.approx([-math.log(2)] * 2)
    assert found[1] == pytest.approx([-1000, 0])


def _compare(directory: Path, text: Path, *types: str) -> Comparison:
    checkpoint = Checkpoint.open(directory)
    source = load_source("family:chatml", checkpoint)
    return compare_quantizations(checkpoint, source, analyse_stops(source, checkpoint), types, text=text)


@pytest.fixture
def checkpoint(make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    return make_checkpoint()


def test_a_tiny_model_is_measured_in_windows(checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abcd efgh\n" * 120, encoding="utf-8")
    found = _compare(checkpoint, text, "q8_0", "bf16", "q8_0")
    assert [each.type for each in found.quantizations] == ["bf16", "q8_0"]
    reference, quantized = found.quantizations
    assert reference.divergence.kl == 0.0
    assert reference.divergence.same_top == 1.0
    assert 0.0 < quantized.divergence.kl < 0.01
    assert found.choice is quantized
    assert json.loads(json.dumps(found.as_json()))["choice"] == "q8_0"
    assert not list((tmp_path / "cache" / "compare").iterdir())


def test_a_text_that_is_too_short_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("ab", encoding="utf-8")
    with pytest.raises(BadInput, match="at least 32"):
        _compare(checkpoint, text, "q8_0")
    with pytest.raises(BadInput, match="Cannot read"):
        _compare(checkpoint, tmp_path / "nowhere.txt", "q8_0")


def _answer(server: str, *tokens: tuple[str, float]) -> Answer:
    made = tuple(Token(text, share, ((text, share),)) for text, share in tokens)
    return Answer(server, "?", "".join(text for text, _ in tokens), "stop", made)


def test_where_two_answers_part() -> None:
    reference = _answer("bf16", ("The", 0.9), (" sky", 0.8), (" is", 0.6))
    same = part(reference, _answer("q8_0", ("The", 0.8), (" sky", 0.8), (" is", 0.6)))
    assert same.character is None
    assert same.drift == pytest.approx(0.1)
    other = part(reference, _answer("q2_k", ("The", 0.9), (" sea", 0.5), (" is", 0.6)))
    assert (other.character, other.common) == (5, "The s")
    assert other.reference_top == ((" sky", 0.8),)
    assert other.top == ((" sea", 0.5),)
    shorter = part(reference, _answer("q4_0", ("The", 0.9)))
    assert shorter.character == 3
    silent = part(reference, Answer("other", "?", "The sun", "stop"))
    assert (silent.character, silent.drift, silent.top) == (5, None, ())


def test_bars_are_as_long_as_their_values() -> None:
    lines = bars({"a": 4.0, "bb": 2.0, "c": 0.0}, "s")
    assert [line.count("█") for line in lines] == [40, 20, 0]
    assert lines[1].startswith("bb  █")
    assert lines[2] == "c    0 s"
