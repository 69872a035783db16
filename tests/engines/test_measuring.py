"""Load and questions against the real embedded engine with the sample."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.compare.answers import ask, part, served
from deploy.load import Load, run_load

pytestmark = pytest.mark.engines

QUESTION = "What is the capital of France? Answer in one sentence."


@pytest.fixture(scope="module")
def url(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTSIDE_CACHE", str(tmp_path_factory.mktemp("cache")))
        with served(sample, "checkpoint", "q8_0") as url:
            yield url


def test_every_answer_has_as_many_tokens_as_asked_for(url: str) -> None:
    found = run_load(url, Load(concurrencies=(1, 2), requests=2, prompt_words=8, max_tokens=12))
    assert (found.server, found.ignore_eos) == ("llama.cpp", True)
    for level in found.levels:
        assert level.errors == {}
        assert level.tokens == 12 * level.requests
        assert level.counted
        assert level.inter_token["p50"] is not None


def test_answers_come_with_the_probabilities_of_their_tokens(url: str) -> None:
    first, second = (ask(url, name, [QUESTION], 24, None)[0] for name in ("first", "second"))
    assert "Paris" in first.text
    assert "".join(token.text for token in first.tokens).strip() == first.text.strip()
    for token in first.tokens:
        assert 0.0 < token.probability <= 1.0
        assert len(token.top) == 5
        assert token.probability == pytest.approx(token.top[0][1])
    found = part(first, second)
    assert found.character is None
    assert found.drift is not None
    assert found.drift < 0.01
