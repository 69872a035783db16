"""Watching a server: what is busy, what is dead, what is asleep, and what is told of it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from cli import main
from deploy.client import Client
from deploy.ladder import Target
from deploy.metrics import serve_metrics
from deploy.ports import free_port
from deploy.report import RUNGS
from deploy.traffic import UNTOLD, read_traffic
from deploy.watch import Change, Pace, Watch
from errors import EngineFailed
from tests.deploy.scripted import Scripted, scripted

CHAT = "/v1/chat/completions"
HASTY = Pace(interval=0.01, token_every=0.0, token_seconds=0.05)


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted() as script:
        yield script


@pytest.fixture
def client(server: Scripted) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


class Watched:
    """A watch of a server, and what it told."""

    def __init__(self, client: Client, pace: Pace = HASTY) -> None:
        self.changes: list[Change] = []
        self.now = 1000.0
        self.watch = Watch(client, Target(), tell=self.changes.append, pace=pace, clock=lambda: self.now)

    def look(self) -> str:
        self.watch.look()
        return str(self.watch.state)

    @property
    def last(self) -> str:
        return self.changes[-1].detail


def vllm_metrics(running: int, waiting: int, tokens: int) -> tuple[int, str]:
    """Two engines share the work."""
    lines = [
        "# TYPE vllm:num_requests_running gauge",
        *(f'vllm:num_requests_running{{engine="{i}"}} {n}.0' for i, n in enumerate((running, 0))),
        "# TYPE vllm:num_requests_waiting gauge",
        *(f'vllm:num_requests_waiting{{engine="{i}"}} {n}.0' for i, n in enumerate((waiting, 0))),
        "# TYPE vllm:generation_tokens_total counter",
        *(f'vllm:generation_tokens_total{{engine="{i}"}} {n}.0' for i, n in enumerate((tokens, 10))),
    ]
    return 200, "\n".join((*lines, ""))


def as_vllm(server: Scripted, running: int, tokens: int) -> None:
    server.lists("m", "vllm")
    server.get["/metrics"] = vllm_metrics(running, 0, tokens)


def test_each_engine_tells_its_traffic_in_its_way(server: Scripted) -> None:
    server.get["/metrics"] = vllm_metrics(2, 1, 60)
    server.get["/slots"] = 200, [{"is_processing": True, "id_task": 4, "next_token": [{"n_decoded": 7}]}]
    server.get["/api/ps"] = 200, {"models": [{"name": "m", "expires_at": "2026-11-24T20:00:00Z"}]}
    with Client(server.url) as client:
        vllm = read_traffic(client, "vllm")
        assert (vllm.source, vllm.running, vllm.mark) == ("/metrics", 3, 70.0)
        server.get["/metrics"] = 501, {"error": "start it with --metrics"}
        slots = read_traffic(client, "llama.cpp")
        assert (slots.source, slots.running) == ("/slots", 1)
        server.get["/slots"] = 200, [{"is_processing": True, "id_task": 4, "next_token": [{"n_decoded": 8}]}]
        assert read_traffic(client, "llama.cpp").moved_since(slots)
        assert not read_traffic(client, "llama.cpp").restarted_since(slots)
        server.get["/slots"] = 200, [{"is_processing": False, "id_task": -1}]
        assert read_traffic(client, "llama.cpp").restarted_since(slots)
        ollama = read_traffic(client, "ollama")
        assert ollama.running is None
        server.get["/api/ps"] = 200, {"models": [{"name": "m", "expires_at": "2026-11-24T20:00:01Z"}]}
        assert read_traffic(client, "ollama").moved_since(ollama)
        server.get["/metrics"] = 200, "lmdeploy:num_requests_running 1\nlmdeploy:generation_tokens_total 5\n"
        lmdeploy = read_traffic(client, "lmdeploy")
        assert (lmdeploy.running, lmdeploy.mark) == (1, 5.0)
        assert read_traffic(client, "unknown") is UNTOLD
        server.get["/metrics"] = 200, "<html>no metrics}{ here"
        assert read_traffic(client, "vllm") is UNTOLD


def test_the_first_look_climbs_everything_and_the_next_are_cheap(server: Scripted, client: Client) -> None:
    watched = Watched(client, Pace())
    assert watched.look() == "up"
    assert tuple(rung.name for rung in watched.changes[0].rungs) == RUNGS
    assert "does not tell whether others use it" in watched.last
    server.asked.clear()
    assert watched.look() == "up"
    assert server.asked == ["/health", "/v1/models"]
    assert len(watched.changes) == 1, "only changes are told"


def test_no_token_is_asked_for_while_others_get_theirs(server: Scripted, client: Client) -> None:
    as_vllm(server, 3, 100)
    watched = Watched(client)
    watched.look()
    for tokens in (150, 200):
        server.asked.clear()
        as_vllm(server, 3, tokens)
        assert watched.look() == "up"
        assert CHAT not in server.asked
    server.asked.clear()
    assert watched.look() == "up"
    assert server.asked.count(CHAT) == 1, "nobody got a token since"


def test_a_busy_server_is_not_a_dead_one(server: Scripted, client: Client) -> None:
    as_vllm(server, 5, 100)
    watched = Watched(client)
    watched.look()
    server.chat = None
    watched.look()
    assert watched.look() == "busy"
    assert "requests in progress: 5" in watched.last.lower()
    server.answers()
    assert watched.look() == "up"


def test_an_idle_server_without_a_token_is_dead_behind_its_200(server: Scripted, client: Client) -> None:
    as_vllm(server, 0, 100)
    watched = Watched(client)
    watched.look()
    server.chat = None
    watched.look()
    assert watched.look() == "down"
    assert "Nobody else uses it" in watched.last
    assert "hangs or is dead" in (watched.changes[-1].hint or "")


def test_our_own_forsaken_requests_do_not_keep_it_alive(server: Scripted, client: Client) -> None:
    """A hung engine never ends them: they stay in its count of running requests."""
    as_vllm(server, 1, 100)
    watched = Watched(client)
    watched.look()
    server.chat = None
    assert watched.look() == "busy", "somebody's request was there before ours"
    assert watched.look() == "down", "that one request is ours"


def test_busy_for_too_long_without_a_sign_of_work_is_down(server: Scripted, client: Client) -> None:
    as_vllm(server, 9, 100)
    watched = Watched(client)
    watched.look()
    server.chat = None
    assert watched.look() == "busy"
    watched.now += 301
    assert watched.look() == "down"
    assert "No sign of work for" in watched.last
    assert [change.state for change in watched.changes] == ["up", "busy", "down"]


def test_silence_of_a_server_that_tells_nothing_is_unclear_at_first(server: Scripted, client: Client) -> None:
    watched = Watched(client)
    watched.look()
    server.chat = None
    assert watched.look() == "unclear"
    assert "does not tell whether it is at work" in watched.last
    watched.now += 301
    assert watched.look() == "down"


def test_refused_for_load_is_busy(server: Scripted, client: Client) -> None:
    watched = Watched(client)
    watched.look()
    server.chat = 503, {"error": "server busy, please try again"}
    assert watched.look() == "busy"


@pytest.mark.parametrize("dead", [(500, {"message": "EngineDeadError"}), (200, {"choices": []})])
def test_an_engine_that_died_behind_its_api(
    server: Scripted, client: Client, dead: tuple[int, object]
) -> None:
    watched = Watched(client)
    watched.look()
    server.chat = dead
    assert watched.look() == "down"
    assert watched.last.startswith("rung generate:")
    watched.watch.pace = Pace()
    server.asked.clear()
    assert watched.look() == "down"
    assert CHAT not in server.asked, "it is not asked again so soon"
    server.answers()
    watched.now += 61
    assert watched.look() == "up"


def test_sleeping_and_awake_again(server: Scripted, client: Client) -> None:
    watched = Watched(client)
    watched.look()
    server.get["/health"] = 200, {"status": "sleeping"}
    assert watched.look() == "sleeping"
    assert "/wakeup" in (watched.changes[-1].hint or "")
    server.get["/health"] = 200, {"status": "healthy"}
    assert watched.look() == "up"
    assert tuple(rung.name for rung in watched.changes[-1].rungs) == RUNGS, "after an absence: the ladder"


def test_another_engine_in_its_place_is_climbed_again(server: Scripted, client: Client) -> None:
    as_vllm(server, 1, 500)
    watched = Watched(client, Pace())
    watched.look()
    as_vllm(server, 1, 3)
    server.answers("Sure.<|im_end|>")
    assert watched.look() == "unhealthy", "its counter fell: it was started anew, and answers otherwise"
    assert "leaks" in watched.last
    assert watched.look() == "unhealthy"


def test_a_server_that_never_was_up() -> None:
    with Client(f"127.0.0.1:{free_port()}") as client:
        changes: list[Change] = []
        watch = Watch(client, Target(), tell=changes.append, pace=HASTY)
        watch.run(fail_after=3)
    assert [change.state for change in changes] == ["down"]
    assert watch.probes == {("ladder", False): 1, ("look", False): 2}


def test_the_metrics_are_prometheus_own_format(server: Scripted, client: Client) -> None:
    as_vllm(server, 3, 100)
    server.lists('odd "name"\n', "vllm")
    watched = Watched(client)
    watched.look()
    with serve_metrics(watched.watch, 0) as url:
        text = urllib.request.urlopen(url).read().decode()
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        strict = urllib.request.urlopen(urllib.request.Request(url, headers=accept)).read().decode()
        port = int(url.split(":")[2].split("/")[0])
        with pytest.raises(EngineFailed, match="in use"), serve_metrics(watched.watch, port):
            pass
    assert list(openmetrics.text_string_to_metric_families(strict))  # type: ignore[no-untyped-call]
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    who = {"url": server.url, "model": 'odd "name"\n', "engine": "vllm"}
    assert all(sample.labels.items() >= who.items() for sample in samples)
    found = {(s.name, *(v for k, v in s.labels.items() if k not in who)): s.value for s in samples}
    assert found["portside_health_up",] == 1
    assert found["portside_health_state", "up"] == 1
    assert found["portside_health_state", "down"] == 0
    assert found["portside_health_rung_ok", "stop"] == 1
    assert found["portside_health_probes_total", "ladder", "serving"] == 1
    assert found["portside_health_requests_running",] == 3
    assert abs(found["portside_health_last_success_timestamp_seconds",] - time.time()) < 60
    assert ("portside_health_rung_ok", "prompt") not in found, "it was not judged"


def after_the_first_look(server: Scripted, act: Callable[[], None]) -> None:
    """Do something in the time between the first look, which is told, and the third."""

    def wait() -> None:
        while server.asked.count("/v1/models") < 2:
            time.sleep(0.01)
        act()

    threading.Thread(target=wait, daemon=True).start()


def test_the_command_tells_changes_and_ends_with_the_state(server: Scripted) -> None:
    def fall() -> None:
        server.get["/health"] = 503, {}

    after_the_first_look(server, fall)
    flags = ["--watch", "--interval", "0.1", "--fail-after", "2"]
    done = CliRunner().invoke(main, ["health", server.url, *flags, "--json"])
    assert done.exit_code == 1
    up, down = (json.loads(line) for line in done.stdout.splitlines())
    assert (up["state"], up["was"], up["model"]) == ("up", None, "m")
    assert (down["state"], down["was"]) == ("down", "up")
    assert "unwell" in down["detail"]


def test_ctrl_c_ends_a_watch_of_a_good_server_with_0(server: Scripted) -> None:
    after_the_first_look(server, lambda: os.kill(os.getpid(), signal.SIGINT))
    done = CliRunner().invoke(main, ["health", server.url, "--watch", "--interval", "0.1"])
    assert done.exit_code == 0
    assert done.stdout.count(" up ") == 1


def test_options_of_the_watch_alone() -> None:
    done = CliRunner().invoke(main, ["health", "http://127.0.0.1:1", "--fail-after", "2"])
    assert done.exit_code == 2
    assert "goes with --watch" in done.stderr
