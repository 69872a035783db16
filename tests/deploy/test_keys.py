"""The API key: where it comes from, and that nobody else on the machine gets to see it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from cli import main
from deploy import ServeRequest, plan_serving
from deploy.leash import descendants
from errors import UsageError

ROOT = Path(__file__).parents[2]
KEY = "sk-portside-5f1e0c7d9b3a"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this module's own; whatever still runs in the background at the end is ended."""
    directory = tmp_path_factory.mktemp("cache")
    yield directory
    portside(directory, "stop", "--all")
    shutil.rmtree(directory)


def portside(cache: Path, *words: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "PORTSIDE_API_KEY"}
    env |= {"PORTSIDE_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    env |= {"PORTSIDE_API_KEY": key} if key else {}
    command = [sys.executable, "-m", "cli", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=300)


def key_file(directory: Path, text: str = KEY + "\n") -> str:
    path = directory / "key"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    "way",
    [
        pytest.param("file", marks=pytest.mark.engines),
        "environment",
        pytest.param("option", marks=pytest.mark.engines),
    ],
)
def test_nobody_sees_the_key_of_a_server_in_the_background(
    sample: Path, tmp_path: Path, home: Path, way: str
) -> None:
    given = {"file": ("--api-key-file", key_file(tmp_path)), "option": ("--api-key", KEY)}.get(way, ())
    start = ("serve", "llamacpp", str(sample), "--runtime", "embedded", "--port", "0", "--detach", "--json")
    started = portside(home, *start, *given, key=KEY if way == "environment" else None)
    assert started.returncode == 0, started.stderr
    listed = portside(home, "ps", "--json")
    (server,) = json.loads(listed.stdout)["servers"]

    pids = (server["pid"], *descendants(server["pid"]))
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
    assert len(lines) > 1, "the engine is a process of its own"
    assert not [line for line in lines if KEY.encode() in line]
    written = [path for path in home.rglob("*") if path.is_file() and path.suffix != ".gguf"]
    assert {"server.json", "report", "messages"} <= {path.name for path in written}
    assert [path.name for path in written if path.suffix == ".log"]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    assert KEY not in started.stdout + started.stderr + listed.stdout + listed.stderr

    models = server["url"] + "/v1/models"
    assert httpx.get(server["url"] + "/v1/chat/completions", trust_env=False).status_code == 401
    assert httpx.get(models, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False).status_code == 200
    if way == "file":
        _use(server["url"], tmp_path, home, given)
    assert portside(home, "stop", server["name"]).returncode == 0


def _use(url: str, tmp_path: Path, home: Path, right: tuple[str, ...]) -> None:
    """The commands that talk with the server read the same file."""
    assert portside(home, "health", url, *right).returncode == 0
    assert portside(home, "chat", url, *right, "--max-tokens", "4", "-m", "Hi!").returncode == 0
    assert portside(home, "health", url, *right, key="wrong").returncode == 0, "the file wins"
    wrong = portside(home, "health", url, "--api-key-file", key_file(tmp_path, "wrong"))
    assert (wrong.returncode, "refuses the API key" in wrong.stdout + wrong.stderr) == (1, True)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_plan_does_not_print_the_key(sample: Path, tmp_path: Path, as_json: bool) -> None:
    plan = ("serve", "llamacpp", str(sample), "--runtime", "embedded", "--dry-run", *["--json"] * as_json)
    shown = CliRunner().invoke(main, [*plan, "--api-key-file", key_file(tmp_path)])
    assert shown.exit_code == 0, shown.stderr
    assert "***" in shown.stdout
    assert KEY not in shown.stdout + shown.stderr


@pytest.mark.parametrize("text", ["", "hush, hush", "hush\nmore\n", "schlüssel", "x" * 5000])
def test_what_is_no_key_is_refused_unquoted(tmp_path: Path, home: Path, text: str) -> None:
    refused = portside(home, "health", "http://127.0.0.1:9", "--api-key-file", key_file(tmp_path, text))
    assert (refused.returncode, "no API key" in refused.stderr) == (3, True), refused.stderr
    assert not text or text.split(maxsplit=1)[0] not in refused.stderr.replace("\n", "")


def test_a_key_file_that_is_missing_or_not_text(tmp_path: Path, home: Path) -> None:
    refused = portside(home, "chat", "http://127.0.0.1:9", "-m", "Hi", "--api-key-file", str(tmp_path / "no"))
    assert (refused.returncode, "cannot be read" in refused.stderr) == (3, True)
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    refused = portside(home, "health", "http://127.0.0.1:9", "--api-key-file", str(tmp_path / "key"))
    assert (refused.returncode, "no API key" in refused.stderr) == (3, True)


def test_two_keys_are_one_too_many(tmp_path: Path, home: Path) -> None:
    words = ("health", "http://127.0.0.1:9", "--api-key", "a", "--api-key-file", key_file(tmp_path))
    refused = portside(home, *words)
    assert (refused.returncode, "not both" in refused.stderr) == (2, True)


@pytest.mark.parametrize("words", [("--api-key", KEY), (f"--api-key={KEY}",), ("--api-keys", KEY)])
def test_a_key_among_the_engines_arguments_is_refused(sample: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="shown by `ps`") as refused:
        plan_serving(ServeRequest("llamacpp", sample, runtime="embedded", engine_args=words))
    assert KEY not in str(refused.value)


def test_a_request_does_not_show_its_key() -> None:
    assert KEY not in repr(ServeRequest("llamacpp", Path("model"), api_key=KEY))


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [
        ("0.0.0.0", None, True),
        ("0.0.0.0", KEY, False),
        ("127.0.0.2", None, False),
        ("localhost", None, False),
    ],
)
def test_other_machines_without_a_key_are_warned_of(
    sample: Path, host: str, key: str | None, warned: bool
) -> None:
    plan = ("serve", "llamacpp", str(sample), "--runtime", "embedded", "--dry-run", "--host", host)
    shown = CliRunner(env={"PORTSIDE_API_KEY": key}).invoke(main, plan)
    assert shown.exit_code == 0, shown.stderr
    assert ("Anyone who reaches" in shown.stderr) is warned
