"""LMDeploy's own command line and API server on the real sample, computing with transformers on the CPU.

PORTSIDE_TEST_LMDEPLOY names an environment with lmdeploy, torch and transformers. A second environment on top
of it (no packages of its own) exchanges the forward pass; see lmdeploy_on_cpu.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chat_templates import load_source
from checkpoint import Checkpoint
from deploy import HealthReport, ServeRequest, check_health, plan_serving
from deploy.engines.lmdeploy import TEMPLATE
from errors import CheckFailed
from tests.checkpoints import edit_json
from tests.deploy.pains import ALPACA, LLAMA3, renamed_turn_end, variant
from tests.deploy.serving import Recorder, serve

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
        base = Path(os.environ["PORTSIDE_TEST_LMDEPLOY"])
        patch.setenv("PORTSIDE_LMDEPLOY", str(cpu_environment(base, directory / "environment")))
        yield
    shutil.rmtree(directory)


def cpu_environment(base: Path, directory: Path) -> Path:
    subprocess.run([base / "bin/python", "-m", "venv", "--without-pip", directory], check=True)
    (packages,) = directory.glob("lib/python3*/site-packages")
    (theirs,) = base.glob("lib/python3*/site-packages")
    (packages / "base.pth").write_text(f"{theirs}\n")
    shutil.copy(Path(__file__).with_name("lmdeploy_on_cpu.py"), packages / "sitecustomize.py")
    (info,) = theirs.glob("lmdeploy-*.dist-info")
    (packages / info.name).symlink_to(info)
    program = directory / "bin" / "lmdeploy"
    program.write_text(f"#!{directory}/bin/python\nfrom lmdeploy.cli.entrypoint import run\nrun()\n")
    program.chmod(0o755)
    return directory


@pytest.fixture
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that never stop cost the whole budget: three times what the healthy one needs will do."""
    monkeypatch.setattr("deploy.stopping.BUDGET", 96)


def failed(view: Recorder) -> list[str]:
    return [rung.name for rung in view.rungs.values() if rung.ok is False]


def test_the_sample_is_healthy_and_is_compared(sample: Path, tmp_path: Path) -> None:
    right = Checkpoint.open(sample)
    (tmp_path / "alpaca.jinja").write_text(ALPACA)
    reports: list[HealthReport] = []

    def look(pid: int) -> None:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        assert "secret" not in words
        url = f"http://127.0.0.1:{words[words.index('--server-port') + 1]}"
        assert "wants an API key" in check_health(url)["models"].detail
        alpaca = load_source(str(tmp_path / "alpaca.jinja"), right)
        reports.append(check_health(url, checkpoint=right, source=alpaca, api_key="secret"))

    view = Recorder(look)
    serve("lmdeploy", sample, view)
    assert view.report is not None
    assert [rung.ok for rung in view.report.rungs] == [True] * 7, view.report.as_json()
    assert view.report.server == "lmdeploy"
    assert [rung.name for rung in reports[0].rungs if rung.ok is False] == ["prompt"]


@pytest.mark.usefixtures("few_tokens")
@pytest.mark.parametrize("template", [ALPACA, LLAMA3], ids=["alpaca", "llama3"])
def test_a_wrong_template_fails_at_stop(sample: Path, tmp_path: Path, template: str) -> None:
    view = Recorder()
    with pytest.raises(CheckFailed, match="never stops"):
        serve("lmdeploy", variant(sample, tmp_path / "wrong", template=template), view, as_is=True)
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


@pytest.mark.parametrize(
    ("fault", "rung", "words"),
    [("sleeps", "health", "engine sleeps"), ("hangs", "generate", "no answer within 3 s")],
)
def test_faults_of_the_engine(
    sample: Path, monkeypatch: pytest.MonkeyPatch, fault: str, rung: str, words: str
) -> None:
    monkeypatch.setenv("LMDEPLOY_TEST_FAULT", fault)
    monkeypatch.setattr("deploy.ladder._GENERATE_TIMEOUT", 3.0)
    view = Recorder()
    with pytest.raises(CheckFailed):
        serve("lmdeploy", sample, view)
    assert failed(view)[0] == rung
    assert words in view.rungs[rung].detail
