"""What `lmdeploy lite auto_awq` is told, and what is refused before it is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint import Checkpoint
from deploy.engines.accelerators import Accelerators
from deploy.quantize import CALIBRATED, AwqPlan, plan_awq, run_awq
from errors import BadInput, EngineFailed, EngineMissing, OutputError, UsageError
from tests.checkpoints import edit_json

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(autouse=True)
def lmdeploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An LMDeploy of the test's own with the package `datasets`; no GPU."""
    root = tmp_path / "lmdeploy"
    for name in ("lmdeploy-0.18.0", "datasets-4.0"):
        (root / f"lib/python3.12/site-packages/{name}.dist-info").mkdir(parents=True)
    for name in ("python", "lmdeploy"):
        program(root / "bin" / name, "exit 0")
    monkeypatch.setenv("PORTSIDE_LMDEPLOY", str(root))
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deploy.quantize.find_accelerators", lambda: Accelerators("none"))
    return root


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def plan(model: Path, **options: object) -> AwqPlan:
    return plan_awq(model, **options)  # type: ignore[arg-type]


def test_the_whole_command(
    make_checkpoint: MakeCheckpoint, lmdeploy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_checkpoint("mine")
    found = plan(model)
    assert found.output == tmp_path / "mine-awq"
    assert found.argv() == (
        *(str(lmdeploy / "bin/lmdeploy"), "lite", "auto_awq", str(model), "--work-dir", str(found.output)),
        *("--w-bits", "4", "--w-group-size", "128", "--calib-samples", "128"),
        *("--calib-dataset", "wikitext2", "--device", "cpu", "--dtype", "float16"),
    )
    assert "downloads from a model hub" in found.notes[0]
    assert "HF_HUB_OFFLINE" not in found.env()
    for kind, device in (("cuda", "cuda"), ("ascend", "npu")):
        machine = Accelerators(kind, 1)  # type: ignore[arg-type]
        monkeypatch.setattr("deploy.quantize.find_accelerators", lambda machine=machine: machine)
        assert plan(model).argv()[-2:] == ("--device", device)


def test_calibrating_with_a_text(make_checkpoint: MakeCheckpoint, lmdeploy: Path) -> None:
    Path("text.txt").write_text("Hello.")
    found = plan(make_checkpoint(), data=Path("text.txt"), samples=7)
    assert found.argv()[:3] == (str(lmdeploy / "bin/python"), "-P", str(CALIBRATED))
    assert found.env()["PORTSIDE_CALIBRATION_TEXT"] == str(Path("text.txt").absolute())
    assert found.env()["HF_HUB_OFFLINE"] == "1"


def test_without_the_package_of_the_data_sets(make_checkpoint: MakeCheckpoint, lmdeploy: Path) -> None:
    next(lmdeploy.glob("lib/*/*/datasets*")).rmdir()
    with pytest.raises(EngineMissing, match="lacks the package `datasets`") as caught:
        plan(make_checkpoint())
    assert "--calib-data FILE.txt" in str(caught.value.hint)
    assert plan(make_checkpoint(), samples=0).env()["HF_HUB_OFFLINE"] == "1"


def test_what_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = make_checkpoint()
    with pytest.raises(BadInput, match=r"Groups of 96 do not divide hidden_size, 256.*--w-group-size 128"):
        plan(model, group_size=96)
    with pytest.raises(UsageError, match="gone is not a file"):
        plan(model, data=tmp_path / "gone")
    for place in (model, model / "awq"):
        with pytest.raises(UsageError, match="is in the checkpoint itself"):
            plan(model, output=place)
    with pytest.raises(OutputError, match="exists"):
        plan(model, output=tmp_path / "lmdeploy")
    edit_json(model / "config.json", quantization_config={"quant_method": "awq"})
    with pytest.raises(BadInput, match=r"is quantized already \(awq\)"):
        plan(model)


@pytest.mark.parametrize(
    ("says", "match"),
    [
        ("The supported model types are Llama; exit 1", "cannot quantize LlamaForCausalLM"),
        ("in load_dataset; exit 1", "could not be fetched from the model hub"),
        ("CUDA out of memory; exit 1", "The memory is too small"),
        ("well", "no config.json"),
    ],
)
def test_what_fails_leaves_nothing(
    make_checkpoint: MakeCheckpoint, lmdeploy: Path, tmp_path: Path, says: str, match: str
) -> None:
    words, _, end = says.partition("; ")
    program(lmdeploy / "bin/lmdeploy", f"echo 'X are not supported. {words}'; {end}")
    if "supported" not in says:
        program(lmdeploy / "bin/lmdeploy", f"echo '{words}'; {end}")
    found = plan(make_checkpoint(), output=tmp_path / "out" / "awq")
    with pytest.raises((EngineFailed, BadInput), match=match):
        run_awq(found)
    assert not list((tmp_path / "out").iterdir())


def test_a_result_that_is_not_what_was_asked_for(
    make_checkpoint: MakeCheckpoint, lmdeploy: Path, tmp_path: Path
) -> None:
    model = make_checkpoint()
    program(lmdeploy / "bin/lmdeploy", f'cp {model}/* "$5"')
    with pytest.raises(EngineFailed, match=r"config\.json says None"):
        run_awq(plan(model))
    wanted = '{"quant_method": "awq", "bits": 4, "group_size": 128}'
    changed = f"sed 's/^{{/{{\"quantization_config\": {wanted},/' {model}/config.json > $5/config.json"
    program(lmdeploy / "bin/lmdeploy", f'cp {model}/* "$5"; {changed}')
    with pytest.raises(EngineFailed, match="only 0 matrices of 2 layers are packed"):
        run_awq(plan(model))
    assert not (tmp_path / f"{model.name}-awq").exists()
    assert Checkpoint.open(model).config.quantization is None
