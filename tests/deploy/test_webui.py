"""Open WebUI's wiring: which servers, which keys, which settings; the real thing is in tests/engines."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from cli import main
from deploy.webui import (
    Upstream,
    WebuiView,
    connect,
    elsewhere,
    find_webui,
    plan_webui,
    plan_webui_install,
    run_webui,
    webui_settings,
)
from deploy.webui.environment import REQUIREMENTS, WebuiFound
from deploy.webui.plan import secret_key
from errors import CheckFailed, EngineFailed, EngineMissing, UsageError

INSTALLED = WebuiFound("/env/bin/open-webui", "1.2.3")


class _Models(BaseHTTPRequestHandler):
    """Lists one model to whoever has the key `sesame`."""

    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == "Bearer sesame"
        body = {"data": [{"id": "tiny"}]} if allowed else {"error": "Unauthorized"}
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Models) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    for name in ("PORTSIDE_API_KEY", "PORTSIDE_OPEN_WEBUI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    return tmp_path / "cache"


def test_a_base_url_ends_in_v1_whatever_was_given(url: str) -> None:
    found = connect([url, f"{url}/v1/", url], "sesame;sesame")
    assert [upstream.base_url for upstream in found] == [f"{url}/v1"] * 2
    assert found[0].models == ("tiny",)
    assert "sesame" not in repr(found)


@pytest.mark.parametrize(
    ("keys", "error"), [(None, "wants an API key"), ("other", "takes another API key than it was given")]
)
def test_a_key_that_is_not_the_servers_is_told_before_anything_starts(
    url: str, keys: str | None, error: str
) -> None:
    with pytest.raises(CheckFailed, match=error):
        connect([url], keys)


def test_keys_are_one_for_all_or_one_for_each(url: str) -> None:
    with pytest.raises(UsageError, match="There are 3 API keys for 2 servers"):
        connect([url, f"{url}/v1"], "a;b;c")
    assert connect([url, f"{url}/v1"], "sesame")[1].api_key == "sesame"


def test_a_server_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(CheckFailed, match="cannot connect"):
        connect(["http://127.0.0.1:9"], None)


def test_a_server_without_a_key_gets_a_dummy() -> None:
    settings = webui_settings(["http://a/v1", "http://b/v1"], ["k", None], login=False)
    assert settings["OPENAI_API_BASE_URLS"] == "http://a/v1;http://b/v1"
    assert settings["OPENAI_API_KEYS"] == "k;none"


def test_only_a_page_that_others_reach_asks_for_a_login() -> None:
    shown = (Upstream("http://127.0.0.1:1", ("m",), "secret"),)
    here = plan_webui(INSTALLED, shown, port=8080)
    assert here.env["WEBUI_AUTH"] == "False"
    assert here.env["CORS_ALLOW_ORIGIN"] == "http://127.0.0.1:8080;http://localhost:8080"
    everywhere = plan_webui(INSTALLED, shown, host="0.0.0.0", port=8080)
    assert everywhere.env["WEBUI_AUTH"] == "True"
    assert everywhere.data != here.data, "Open WebUI refuses to drop the login once accounts exist"
    assert "secret" not in json.dumps(here.as_json()) + repr(here) + str(here.rows())


def test_sessions_are_signed_with_a_key_that_stays(tmp_path: Path) -> None:
    first = secret_key(tmp_path / "data")
    assert first == secret_key(tmp_path / "data")
    assert (tmp_path / "data" / "secret_key").stat().st_mode & 0o077 == 0


def test_a_container_does_not_find_the_host_at_127_0_0_1() -> None:
    found = elsewhere([Upstream("http://127.0.0.1:8000", ("m",), "secret"), Upstream("http://gpu:1", ("n",))])
    words = shlex.split(found["docker"])
    assert "OPENAI_API_BASE_URLS=http://host.docker.internal:8000/v1;http://gpu:1/v1" in words
    assert words[words.index("--add-host") + 1] == "host.docker.internal:host-gateway"
    assert "OPENAI_API_KEYS=$PORTSIDE_API_KEY" in words
    assert "secret" not in json.dumps(found)
    assert any("--host 0.0.0.0" in note for note in found["notes"])


def test_the_environment_is_keyed_by_its_requirements(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert find_webui() is None
    place = plan_webui_install().path
    (tmp_path / "open-webui.txt").write_text(REQUIREMENTS.read_text() + "more==1\n")
    monkeypatch.setattr("deploy.webui.environment.REQUIREMENTS", tmp_path / "open-webui.txt")
    assert plan_webui_install().path != place
    monkeypatch.setenv("PORTSIDE_OPEN_WEBUI", str(tmp_path))
    with pytest.raises(EngineMissing, match="no Open WebUI in PORTSIDE_OPEN_WEBUI"):
        find_webui()


def test_the_command_shows_what_it_would_do(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTSIDE_API_KEY", "sesame")
    done = CliRunner().invoke(main, ["webui", url, "--dry-run", "--json"])
    plan = json.loads(done.stdout)
    assert plan["servers"] == [{"base_url": f"{url}/v1", "models": ["tiny"], "key": True}]
    assert plan["installed"] is False
    assert "sesame" not in done.stdout
    assert CliRunner().invoke(main, ["webui", "--json"]).exit_code == 3
    assert CliRunner().invoke(main, ["webui", url, "--install", "--dry-run"]).exit_code == 2


def test_it_runs_in_its_data_directory_where_nothing_is_imported_by_mistake(tmp_path: Path) -> None:
    program = tmp_path / "open-webui"
    program.write_text("#!/bin/sh\npwd\nexit 7\n")
    program.chmod(0o755)
    plan = plan_webui(WebuiFound(str(program), None), (), port=0, data=tmp_path / "data")
    with pytest.raises(EngineFailed, match="ended while it was starting") as told:
        run_webui(plan, Mock(spec=WebuiView))
    assert str(plan.data) in told.value.message
