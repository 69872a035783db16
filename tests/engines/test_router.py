"""Two replicas behind vllm-router, one of them killed while it answers: no question is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from chat_templates import load_source
from checkpoint import Checkpoint
from deploy import ServeRequest, check_health, plan_serving
from deploy.ports import free_port
from deploy.process import EngineProcess

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(
        "PORTSIDE_TEST_CLUSTER_PYTHON" not in os.environ,
        reason="PORTSIDE_TEST_CLUSTER_PYTHON names no python",
    ),
]

QUESTIONS = 24
AT_ONCE = 4


@pytest.fixture
def replicas(sample: Path, tmp_path: Path) -> Iterator[dict[str, EngineProcess]]:
    """The sample twice, on the embedded engine."""
    processes: dict[str, EngineProcess] = {}
    try:
        for _ in range(2):
            request = ServeRequest("llamacpp", sample, port=0, runtime="embedded", name="tiny")
            plan = plan_serving(request, execute=True)
            log = tmp_path / f"{plan.port}.log"
            process = EngineProcess(plan.argv, log=log, env=plan.env, cleared=plan.cleared)
            process.start()
            processes[plan.url] = process
        for url, process in processes.items():
            await_health(url, process)
        yield processes
    finally:
        for process in processes.values():
            process.stop()


@pytest.fixture
def router(replicas: dict[str, EngineProcess], tmp_path: Path) -> Iterator[str]:
    """vllm-router before both; it asks them each second how they are."""
    port = free_port()
    program = str(Path(os.environ["PORTSIDE_TEST_CLUSTER_PYTHON"]).with_name("vllm-router"))
    options = ["--policy", "round_robin", "--host", "127.0.0.1", "--port", str(port)]
    checks = ["--health-check-interval-secs", "1", "--health-failure-threshold", "1"]
    checks += ["--worker-startup-check-interval", "1", "--prometheus-port", str(free_port())]
    command = [program, "--worker-urls", *replicas, *options, *checks]
    with EngineProcess(command, log=tmp_path / "router.log", cleared=("*_proxy", "*_PROXY")) as process:
        await_health(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"


def await_health(url: str, process: EngineProcess) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", trust_env=False, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"{url}: {process.tail(5)}")


def test_no_question_is_lost_when_a_replica_is_killed(
    router: str, replicas: dict[str, EngineProcess], sample: Path
) -> None:
    checkpoint = Checkpoint.open(sample)
    source = load_source("checkpoint", checkpoint)
    report = check_health(router, checkpoint=checkpoint, source=source)
    assert report["prompt"].ok, report.as_json()
    assert report.ok, report.as_json()

    victim = next(iter(replicas.values()))
    client = OpenAI(base_url=f"{router}/v1", api_key="none", max_retries=5, timeout=120)
    answered = threading.Event()

    def ask(number: int) -> float:
        began = time.monotonic()
        reply = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": f"What is {number} plus {number}?"}],
            max_tokens=24,
            temperature=0,
        )
        assert reply.choices[0].message.content
        answered.set()
        return time.monotonic() - began

    def kill() -> None:
        answered.wait(60)
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        seconds = list(pool.map(ask, range(QUESTIONS)))
    killer.join()
    assert victim.wait(5) is not None, "one replica is dead"
    assert len(seconds) == QUESTIONS
    sys.stderr.write(
        f"{QUESTIONS} answers in {time.monotonic() - began:.1f} s, {AT_ONCE} at once, the slowest "
        f"{max(seconds):.1f} s; one of two replicas was killed after the first\n"
    )
    after = check_health(router, checkpoint=checkpoint, source=source)
    assert after["prompt"].ok, after.as_json()
