"""LMDeploy's own command line and API server on the real sample, computing with transformers on the CPU.

PORTSIDE_TEST_LMDEPLOY names an environment with lmdeploy, torch and transformers; lmdeploy_on_cpu.py
exchanges the forward pass. What needs no server of its own is in test_matrix and test_clients.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import ServeRequest, plan_serving
from deploy.engines.lmdeploy import TEMPLATE
from errors import CheckFailed
from tests.checkpoints import edit_json
from tests.deploy.pains import LLAMA3, renamed_turn_end, variant
from tests.deploy.serving import Recorder, serve
from tests.engines.running import environment_of

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(
        "PORTSIDE_TEST_LMDEPLOY" not in os.environ, reason="PORTSIDE_TEST_LMDEPLOY is not set"
    ),
]


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of this module's own, and the environment in which LMDeploy needs no GPU."""
    directory = tmp_path_factory.mktemp("lmdeploy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTSIDE_CACHE", str(directory / "cache"))
        for name, value in environment_of("lmdeploy", directory).items():
            patch.setenv(name, value)
        yield
    shutil.rmtree(directory)


@pytest.fixture
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that never stop cost the whole budget: three times what the healthy one needs will do."""
    monkeypatch.setattr("deploy.stopping.BUDGET", 96)


def failed(view: Recorder) -> list[str]:
    return [rung.name for rung in view.rungs.values() if rung.ok is False]


@pytest.mark.usefixtures("few_tokens")
def test_a_wrong_template_fails_at_stop(sample: Path, tmp_path: Path) -> None:
    view = Recorder()
    with pytest.raises(CheckFailed, match="never stops"):
        serve("lmdeploy", variant(sample, tmp_path / "wrong", template=LLAMA3), view, as_is=True)
    assert failed(view) == ["stop"]


@pytest.mark.usefixtures("few_tokens")
def test_a_turn_end_that_no_file_names_is_repaired(sample: Path, tmp_path: Path) -> None:
    model = renamed_turn_end(sample, tmp_path / "renamed")
    view = Recorder()
    with pytest.raises(CheckFailed, match="never stops"):
        serve("lmdeploy", model, view, as_is=True)
    assert failed(view) == ["stop"]
    view = Recorder()
    serve("lmdeploy", model, view)
    assert view.report is not None
    assert view.report.ok, view.report.as_json()


@pytest.mark.parametrize(("source", "template"), [("checkpoint", TEMPLATE), ("family:vicuna", "hf")])
def test_the_template_is_json_where_that_says_all_of_it(sample: Path, source: str, template: str) -> None:
    plan = plan_serving(ServeRequest("lmdeploy", sample, source=source, port=0))
    assert plan.argv[plan.argv.index("--chat-template") + 1].endswith(template)


@pytest.mark.usefixtures("few_tokens")
def test_another_template_reaches_the_model_exactly(sample: Path) -> None:
    view = Recorder()
    serve("lmdeploy", sample, view, source="family:vicuna", allow=True)
    assert view.report is not None
    assert view.report["prompt"].ok, view.report.as_json()


def test_bos_is_not_doubled(sample: Path, tmp_path: Path) -> None:
    """LMDeploy's tokenizer adds BOS to what the template wrote."""
    model = variant(sample, tmp_path / "bos", template=(sample / "chat_template.jinja").read_text())
    bos = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    special = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}
    adds = {
        "type": "TemplateProcessing",
        "single": [bos, text],
        "pair": [bos, text],
        "special_tokens": special,
    }
    edit_json(model / "tokenizer.json", post_processor=adds)
    edit_json(model / "tokenizer_config.json", bos_token="<|endoftext|>")
    own = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    (model / "chat_template.jinja").write_text("{{ bos_token }}" + own)
    view = Recorder()
    serve("lmdeploy", model, view, allow=True)
    assert view.report is not None
    assert view.report["prompt"].ok, view.report.as_json()
