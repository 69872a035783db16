"""Fetching from both hubs, through their own libraries, from a server on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint import Checkpoint
from checkpoint.hub import HubReference, fetch, parse_reference
from errors import HubError, OutputError, UsageError
from tests.checkpoint.hub_server import COMMIT, HubServer, hub_server
from tests.checkpoints import write_random_checkpoint

HUBS = ("hf", "modelscope")
WEIGHTS = "model.safetensors"
UNNEEDED = {
    "pytorch_model.bin": b"the same again",
    "consolidated.safetensors": b"and again",
    "model-q4.gguf": b"GGUF",
    "original/consolidated.00.pth": b"and again",
    "onnx/model.onnx": b"and again",
    "modeling_custom.py": b"raise SystemExit('never run')",
    "README.md": b"# a model card",
}
CLOSED = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small checkpoint's files, and what else repositories carry."""
    directory = write_random_checkpoint(tmp_path_factory.mktemp("hub") / "tiny")
    files = {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
    return {**files, "LICENSE": b"Apache-2.0", **UNNEEDED}


@pytest.fixture
def hub(content: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Both hubs on one server, caches of their own, and no waiting between the libraries' attempts."""
    from huggingface_hub import constants

    with hub_server("org/tiny", dict(content)) as server:
        _point_at(server.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
        monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope-home"))
        monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "portside"))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # smaller pieces for smaller files
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        monkeypatch.setattr("modelscope_hub._download_control._DownloadControl.sleep", lambda *_: None)
        yield server


def _point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", url)


def reference(name: str, repo: str = "org/tiny", revision: str | None = None) -> HubReference:
    return HubReference.of("hf" if name == "hf" else "modelscope", repo, revision)


@pytest.mark.parametrize("name", HUBS)
def test_the_files_of_a_checkpoint_and_no_others(
    name: str, hub: HubServer, content: dict[str, bytes], tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    found = fetch(reference(name), progress=lambda done, total: seen.append((done, total)))
    assert set(found.files) == set(content) - set(UNNEEDED)
    assert {path.name: path.read_bytes() for path in found.path.iterdir()} == {
        file: content[file] for file in found.files
    }
    assert found.revision == (COMMIT if name == "hf" else "master")
    assert found.downloaded == found.bytes
    assert seen[-1][0] == seen[-1][1]
    assert Checkpoint.open(found.path).name == "tiny"
    again = fetch(reference(name))
    assert (again.path, again.downloaded) == (found.path, 0)
    copy = fetch(reference(name), output=tmp_path / "copy")
    assert copy.path == tmp_path / "copy"
    assert {path.name for path in copy.path.iterdir()} == set(found.files)
    assert fetch(reference(name), output=tmp_path / "copy").downloaded == 0


@pytest.mark.parametrize("name", HUBS)
def test_only_the_shards_that_the_index_names(name: str, hub: HubServer, content: dict[str, bytes]) -> None:
    shards = {f"model-0000{i}-of-00002.safetensors": bytes([i]) * 2000 for i in (1, 2, 3)}
    names = list(shards)
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    hub.files = {**hub.files, **shards, f"{WEIGHTS}.index.json": json.dumps(index).encode()}
    del hub.files[WEIGHTS]
    found = fetch(reference(name))
    assert set(names) & set(found.files) == set(names[:2])
    del hub.files[names[1]]
    with pytest.raises(HubError, match=names[1]):
        fetch(reference(name, revision=None), output=found.path.parent / "other")


@pytest.mark.parametrize("name", HUBS)
def test_without_weights_only_the_small_files_come(name: str, hub: HubServer) -> None:
    found = fetch(reference(name), weights=False)
    assert WEIGHTS not in found.files
    assert hub.ranges(WEIGHTS) == []
    assert Checkpoint.open(found.path).tokenizer.tokens
    assert WEIGHTS in fetch(reference(name)).files


@pytest.mark.parametrize("name", HUBS)
@pytest.mark.parametrize("own_directory", [False, True])
def test_an_interrupted_file_goes_on_where_it_stopped(
    name: str, own_directory: bool, hub: HubServer, content: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "here" if own_directory else None
    half = len(content[WEIGHTS]) // 2
    hub.cut[WEIGHTS] = half
    with pytest.raises(HubError, match="cannot be reached"):
        fetch(reference(name), output=output)
    kept = [path for path in tmp_path.rglob("*.incomplete") if path.is_file()]
    (came,) = (path.stat().st_size for path in kept)
    assert half - 4096 < came <= half
    hub.cut.clear()
    hub.requests.clear()
    found = fetch(reference(name), output=output)
    assert hub.ranges(WEIGHTS) == [f"bytes={came}-"]
    assert (found.path / WEIGHTS).read_bytes() == content[WEIGHTS]
    assert found.downloaded == len(content[WEIGHTS]) - came
    assert not list(tmp_path.rglob("*.incomplete"))


@pytest.mark.parametrize("name", HUBS)
def test_a_wrong_checksum_is_tried_again(name: str, hub: HubServer, content: dict[str, bytes]) -> None:
    hub.spoilt[WEIGHTS] = 1
    found = fetch(reference(name))
    assert (found.path / WEIGHTS).read_bytes() == content[WEIGHTS]
    assert len(hub.ranges(WEIGHTS)) == 2


@pytest.mark.parametrize("name", HUBS)
def test_a_file_that_stays_wrong_is_refused_and_removed(name: str, hub: HubServer, tmp_path: Path) -> None:
    hub.spoilt[WEIGHTS] = 99
    with pytest.raises(HubError, match=f"{WEIGHTS}.*removed") as failure:
        fetch(reference(name), output=tmp_path / "here")
    assert "endpoint" in (failure.value.hint or "")
    left = {path.name for path in (tmp_path / "here").iterdir()}
    assert not {file for file in left if file.startswith(WEIGHTS)}


@pytest.mark.parametrize("name", HUBS)
def test_a_repository_that_is_not_there_is_misspelt_or_private(name: str, hub: HubServer) -> None:
    with pytest.raises(HubError, match="org/tinny does not exist, or it is private") as failure:
        fetch(reference(name, "org/tinny"))
    assert "TOKEN" in (failure.value.hint or "")


@pytest.mark.parametrize("name", HUBS)
def test_a_revision_that_is_not_there(name: str, hub: HubServer) -> None:
    with pytest.raises(HubError, match="no revision 'v9'"):
        fetch(reference(name, revision="v9"))


@pytest.mark.parametrize("name", HUBS)
def test_without_the_right_token_it_says_which_variable_to_set(
    name: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "HF_TOKEN" if name == "hf" else "MODELSCOPE_API_TOKEN"
    hub.token = "hf_right"
    with pytest.raises(HubError, match=r"401|private") as failure:
        fetch(reference(name))
    assert variable in (failure.value.hint or "")
    monkeypatch.setenv(variable, "hf_right")
    assert fetch(reference(name)).downloaded


@pytest.mark.parametrize("name", HUBS)
def test_a_gated_repository_wants_its_licence_accepted(name: str, hub: HubServer) -> None:
    hub.refusals = [(403, {"X-Error-Code": "GatedRepo"})]
    with pytest.raises(HubError, match="gated") as failure:
        fetch(reference(name))
    assert "Accept it at" in (failure.value.hint or "")


@pytest.mark.parametrize("name", HUBS)
@pytest.mark.parametrize("refuse_files", [False, True])
def test_a_rate_limit_is_waited_for(name: str, refuse_files: bool, hub: HubServer) -> None:
    hub.refusals = [(429, {"Retry-After": "2"})]
    hub.refuse_files = refuse_files
    assert fetch(reference(name)).downloaded
    assert hub.refusals == []


def test_a_rate_limit_waits_as_long_as_the_hub_says(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    told: list[str] = []
    hub.refusals = [(429, {"Retry-After": "7"})]
    fetch(reference("hf"), weights=False, notify=told.append)
    assert waited[:1] == [7.0]
    assert "7 s" in told[0]
    hub.refusals = [(429, {"Retry-After": "3600"})]
    with pytest.raises(HubError, match="asks to wait 3600 s"):
        fetch(reference("hf"), weights=False)


@pytest.mark.parametrize("name", HUBS)
def test_a_hub_that_cannot_be_reached(name: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    _point_at(CLOSED, monkeypatch)
    with pytest.raises(HubError, match=f"cannot be reached at {CLOSED}") as failure:
        fetch(reference(name))
    assert "_ENDPOINT" in (failure.value.hint or "")
    _point_at(hub.url, monkeypatch)
    found = fetch(reference(name))
    _point_at(CLOSED, monkeypatch)
    told: list[str] = []
    offline = fetch(reference(name), notify=told.append)
    assert (offline.path, offline.offline, offline.downloaded) == (found.path, True, 0)
    assert set(offline.files) == set(found.files)
    assert "fetched earlier" in told[0]


@pytest.mark.parametrize("name", HUBS)
def test_a_partial_copy_in_the_cache_is_not_taken_for_whole(
    name: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(reference(name), weights=False)
    _point_at(CLOSED, monkeypatch)
    with pytest.raises(HubError, match="cannot be reached"):
        fetch(reference(name))
    assert fetch(reference(name), weights=False).offline


@pytest.mark.parametrize("name", HUBS)
def test_a_disk_that_is_too_small_is_told_before(
    name: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(OutputError, match=r"0\.0 GB free"):
        fetch(reference(name), output=tmp_path / "here")
    assert hub.ranges("config.json") == []


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (["model.gguf"], "model.gguf"),
        (["adapter_config.json", "adapter_model.safetensors"], "--adapter"),
        (["config.json", "original.pth"], "original.pth"),
    ],
)
def test_a_repository_without_a_checkpoint_says_what_it_has(
    files: list[str], hint: str, hub: HubServer
) -> None:
    hub.files = dict.fromkeys(files, b"{}")
    with pytest.raises(HubError, match="not a checkpoint") as failure:
        fetch(reference("hf"))
    assert hint in (failure.value.hint or "")


def test_names_of_repositories() -> None:
    assert parse_reference("hf:org/name@v1") == HubReference("hf", "org/name", "v1")
    assert parse_reference("modelscope:org/name") == HubReference("modelscope", "org/name")
    assert parse_reference("hf:gpt2") == HubReference("hf", "gpt2")
    assert parse_reference("models/merged") is None
    assert parse_reference("/models/hf:1") is None
    for wrong in ("hf:", "hf:a/b/c", "hf:../etc", "modelscope:name", "hf:org/name@", "hf:org/na me"):
        with pytest.raises(UsageError, match="not the name of a repository"):
            parse_reference(wrong)


def _run(hub: HubServer, tmp_path: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), **more}
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.mark.engines
def test_the_command_line_and_its_variables(hub: HubServer, tmp_path: Path) -> None:
    done = _run(hub, tmp_path, "fetch", "org/tiny", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["hub"] == "hf"
    assert Path(found["path"], WEIGHTS).is_file()
    hub.requests.clear()
    offline = _run(hub, tmp_path, "inspect", "hf:org/tiny", "--json", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert json.loads(offline.stdout)["name"] == "tiny"
    assert "HF_HUB_OFFLINE" in offline.stderr
    assert hub.requests == []
    gone = _run(hub, tmp_path, "gguf", "hf:org/tinny", "--json")
    assert gone.returncode == 3
    assert "private" in json.loads(gone.stdout)["error"]["message"]


def test_ctrl_c_keeps_what_came(hub: HubServer, tmp_path: Path) -> None:
    """It arrives while the weights do; no half file gets a final name, and the next run ends well."""

    def interrupt(done: int, total: int) -> None:
        if total > 100_000 and done > total // 2:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        fetch(reference("hf"), output=tmp_path / "here", progress=interrupt)
    assert not (tmp_path / "here" / WEIGHTS).exists()
    assert fetch(reference("hf"), output=tmp_path / "here").path.joinpath(WEIGHTS).is_file()
