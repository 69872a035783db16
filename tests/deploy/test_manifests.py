"""Manifests: each of them is a file in golden/, so that a change shows what it changes.

PORTSIDE_WRITE_GOLDEN=1 writes them anew. Real tools read them in tests/engines/test_manifests_valid.py.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from checkpoint.weights import Weights
from cli import main
from deploy.engines.base import ServeRequest
from deploy.manifests import Manifests, Wishes, plan_deployment, render
from deploy.notify import notify
from errors import BadInput, UsageError

GOLDEN = Path(__file__).with_name("golden")
GIB = 1 << 30
LLAMA_70B = {
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
}
LLAMA_405B = {**LLAMA_70B, "hidden_size": 16384, "num_hidden_layers": 126, "num_attention_heads": 128}
BYTES = {"70b": 141_107_412_992, "405b": 811_706_000_000}
TWO_BY_EIGHT = Wishes(nodes=2, gpus_per_node=8, gpu_memory=80 * 10**9)

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("deploy.manifests.systemd.portside_program", lambda: "/opt/portside/bin/portside")
    for name in [name for name in os.environ if name.startswith("PORTSIDE_") and name != "PORTSIDE_CACHE"]:
        if name != "PORTSIDE_WRITE_GOLDEN":
            monkeypatch.delenv(name)


def manifests(kind: str, engine: str, model: Path, wishes: Wishes) -> Manifests:
    request = ServeRequest(engine, model)
    return render(kind, plan_deployment(request, wishes), request, systemd=254)


def compare(name: str, text: str, model: Path) -> None:
    """Compare with the file in golden/, the checkpoint's place written as /models."""
    text = text.replace(str(model.parent), "/models")
    file = GOLDEN / name
    if os.environ.get("PORTSIDE_WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), f"{file} says something else"


CASES = [
    *itertools.product(("compose", "kubernetes", "systemd"), ("vllm", "lmdeploy", "llamacpp", "ollama")),
    ("ray", "vllm"),
]


@pytest.mark.parametrize(("kind", "engine"), CASES, ids=["-".join(case) for case in CASES])
def test_every_engine_in_every_kind(kind: str, engine: str, make_checkpoint: MakeCheckpoint) -> None:
    model = make_checkpoint("tiny")
    wishes = Wishes(gpus_per_node=0 if engine in ("llamacpp", "ollama") else 1, with_webui=kind != "systemd")
    made = manifests(kind, engine, model, wishes)
    for name, text in made.files.items():
        if name.endswith((".yaml", ".service")):
            compare(f"{kind}-{engine}{Path(name).suffix}", text, model)


def test_70b_on_two_machines_differs_from_the_sample_only_where_it_should(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = make_checkpoint("model")
    large = make_checkpoint("large/model", config={**LLAMA_70B})
    one = _objects(manifests("kubernetes", "vllm", small, Wishes()))
    monkeypatch.setattr(Weights, "bytes", property(lambda self: BYTES["70b"]))
    made = manifests("kubernetes", "vllm", large, TWO_BY_EIGHT)
    compare("kubernetes-70b-2x8.yaml", made.files["kubernetes.yaml"], large)
    two = _objects(made)
    differing = {
        path for path in one.keys() | two.keys() if "router" not in path and one.get(path) != two.get(path)
    }
    deployment, pod = "Deployment/model/spec/", "Deployment/model/spec/template/spec/"
    engine = f"{pod}containers/0/"
    assert differing == {
        f"{deployment}replicas",
        f"{deployment}progressDeadlineSeconds",
        f"{engine}command/13",
        f"{engine}command/14",
        f"{engine}startupProbe/failureThreshold",
        f"{engine}resources/requests/cpu",
        f"{engine}resources/requests/nvidia.com/gpu",
        f"{engine}resources/limits/nvidia.com/gpu",
        f"{pod}containers/1/command/2",
        f"{pod}volumes/4/emptyDir/sizeLimit",
        "Service/model/spec/clusterIP",
    }
    assert two[f"{deployment}replicas"] == 2
    assert (two[f"{engine}command/13"], two[f"{engine}command/14"]) == ("--tensor-parallel-size", "8")


def test_405b_goes_over_two_machines(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_checkpoint("model", config=LLAMA_405B)
    monkeypatch.setattr(Weights, "bytes", property(lambda self: BYTES["405b"]))
    for kind, name in (("kubernetes", "kubernetes.yaml"), ("ray", "rayservice.yaml")):
        made = manifests(kind, "vllm", model, TWO_BY_EIGHT)
        compare(f"{kind}-405b-2x8.yaml", made.files[name], model)
    with pytest.raises(UsageError, match="No single machine holds the model"):
        manifests("kubernetes", "lmdeploy", model, TWO_BY_EIGHT)
    with pytest.raises(BadInput, match="does not fit"):
        manifests("kubernetes", "vllm", model, Wishes(nodes=1, gpus_per_node=8, gpu_memory=80 * 10**9))
    with pytest.raises(UsageError, match="depends on their memory"):
        manifests("kubernetes", "vllm", model, Wishes(nodes=2, gpus_per_node=8))


def test_what_the_field_forgets(make_checkpoint: MakeCheckpoint) -> None:
    found = _objects(manifests("kubernetes", "vllm", make_checkpoint("tiny"), Wishes()))
    pod = "Deployment/tiny/spec/template/spec/"
    engine = f"{pod}containers/0/"
    grace, pause = (
        found[f"{pod}terminationGracePeriodSeconds"],
        found[f"{engine}lifecycle/preStop/exec/command/1"],
    )
    drain = found[f"{engine}command/12"]
    assert found[f"{engine}command/11"] == "--shutdown-timeout"
    assert grace > int(pause) + int(drain)
    assert found[f"{pod}enableServiceLinks"] is False
    patience = (
        found[f"{engine}livenessProbe/failureThreshold"] * found[f"{engine}livenessProbe/periodSeconds"]
    )
    assert patience >= 120, "a busy engine is not a dead one"
    assert "kind: Secret" not in yaml.safe_dump(found)


def test_the_key_is_never_written(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = str(make_checkpoint("tiny"))
    for kind in ("compose", "kubernetes", "systemd", "ray"):
        done = CliRunner(env={"PORTSIDE_API_KEY": "sesame"}).invoke(
            main, ["deploy", kind, model, "--engine", "vllm", "-o", str(tmp_path / kind), "--json"]
        )
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["steps"]
        written = "".join(file.read_text() for file in (tmp_path / kind).iterdir() if file.is_file())
        assert "sesame" not in written + done.stdout
    view = tmp_path / "compose" / "view"
    assert str((view / "config.json").readlink()) == "/checkpoint/config.json"
    assert (view / "chat_template.jinja").is_file()


def test_systemd_is_told_when_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("READY=1", "STATUS=up")
        assert listener.recv(100) == b"READY=1\nSTATUS=up"
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")


def _objects(made: Manifests) -> dict[str, Any]:
    """Return every leaf of every object: KIND/NAME/path -> value."""
    leaves: dict[str, Any] = {}
    for found in yaml.safe_load_all(made.files["kubernetes.yaml"]):
        _flatten(f"{found['kind']}/{found['metadata']['name']}", found, leaves)
    return leaves


def _flatten(path: str, value: Any, leaves: dict[str, Any]) -> None:
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    if not isinstance(value, dict | list):
        leaves[path] = value
    for key, inner in entries:
        _flatten(f"{path}/{key}", inner, leaves)
