"""The real Open WebUI before the sample on the embedded engine, used in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.leash import descendants
from deploy.ports import is_open

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("webui_in_chromium.py")
SCREENSHOTS = ROOT / "build" / "open-webui"
QUESTION = "What is the capital of France? Answer in one sentence."

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not {"PORTSIDE_TEST_OPEN_WEBUI", "PORTSIDE_TEST_BROWSER_PYTHON"} <= os.environ.keys(),
        reason="PORTSIDE_TEST_OPEN_WEBUI and PORTSIDE_TEST_BROWSER_PYTHON name no environments",
    ),
    pytest.mark.skipif(
        shutil.which("chromium") is None and not os.environ.get("CI"),
        reason="there is no chromium on PATH: apt-get install chromium",
    ),
]


def portside(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "cli", *map(str, arguments)]


@pytest.fixture
def server(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The sample, served with a key, in the background."""
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PORTSIDE_API_KEY", "sesame")
    monkeypatch.setenv("PORTSIDE_OPEN_WEBUI", os.environ["PORTSIDE_TEST_OPEN_WEBUI"])
    options = ["--runtime", "embedded", "--port", "0", "--detach", "--json"]
    monkeypatch.setenv("DEFAULT_MODEL_PARAMS", '{"temperature": 0}')  # Open WebUI's, for all models
    command = portside("serve", "llamacpp", sample, *options)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)
    subprocess.run(portside("stop", "--all"), check=True)


def test_a_question_is_answered_in_chromium(server: dict[str, Any]) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    command = portside("webui", "--port", "0", "--json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as webui:
        try:
            assert webui.stdout is not None
            page = json.loads(webui.stdout.readline())
            assert page.get("ok"), page
            assert page["servers"] == [
                {"base_url": f"{server['url']}/v1", "models": [server["name"]], "key": True}
            ]
            below = descendants(webui.pid)
            found = _ask_in_chromium(page["url"])
        finally:
            webui.send_signal(signal.SIGINT)
    assert webui.returncode == 0
    assert found["models"] == [server["name"]]
    assert len(found["lengths"]) >= 2, "the answer grows before the reader's eyes"
    assert found["lengths"] == sorted(found["lengths"])
    assert "Paris" in found["answer"]
    assert (SCREENSHOTS / "answer.png").stat().st_size > 10_000
    assert below, "the page's process is below ours"
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
    assert not is_open("127.0.0.1", int(page["url"].rpartition(":")[2]))


def _ask_in_chromium(url: str) -> dict[str, Any]:
    python = os.environ["PORTSIDE_TEST_BROWSER_PYTHON"]
    command = [python, "-P", str(SCRIPT), url, QUESTION, str(SCREENSHOTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
