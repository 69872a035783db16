"""Every manifest in golden/, read by the real tools: Kubernetes' schemas, Ray's, docker-compose, systemd."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "deploy" / "golden"
SCRIPT = Path(__file__).with_name("read_manifests.py")
COMPOSE = sorted(GOLDEN.glob("compose-*.yaml"))
UNITS = sorted(GOLDEN.glob("*.service"))
OTHERS = sorted(set(GOLDEN.glob("*.yaml")) - set(COMPOSE))

pytestmark = pytest.mark.engines
needs_cluster = pytest.mark.skipif(
    "PORTSIDE_TEST_CLUSTER_PYTHON" not in os.environ, reason="PORTSIDE_TEST_CLUSTER_PYTHON names no python"
)


def needs(program: str) -> pytest.MarkDecorator:
    missing = shutil.which(program) is None and not os.environ.get("CI")
    return pytest.mark.skipif(missing, reason=f"{program} is not on PATH")


def read(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [os.environ["PORTSIDE_TEST_CLUSTER_PYTHON"], "-P", str(SCRIPT), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_cluster
def test_kubernetes_and_ray_read_them(tmp_path: Path) -> None:
    done = read(*OTHERS)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen.keys() == {file.name for file in OTHERS}
    assert seen["kubernetes-70b-2x8.yaml"][:2] == ["ConfigMap", "Deployment"]
    assert seen["ray-vllm.yaml"] == ["ConfigMap", "ServeDeploySchema", "Pod", "Pod"]
    text = (GOLDEN / "kubernetes-vllm.yaml").read_text(encoding="utf-8")
    (tmp_path / "wrong.yaml").write_text(text.replace("failureThreshold: 6", "failureTreshold: 6"))
    assert read(tmp_path / "wrong.yaml").returncode != 0, "a misspelt field is seen"


@needs("docker-compose")
@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.stem)
def test_docker_compose_reads_them(file: Path) -> None:
    command = ["docker-compose", "-f", str(file), "config", "--quiet"]
    env = {**os.environ, "PORTSIDE_API_KEY": "sesame"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    if "ollama" not in file.stem:
        env.pop("PORTSIDE_API_KEY")
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        assert "is the key of the server" in done.stderr, "it does not start without a key"


@needs("systemd-analyze")
@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.stem)
def test_systemd_reads_them(file: Path, tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("portside"))
    unit = tmp_path / file.name
    lines = file.read_text(encoding="utf-8").replace("/opt/portside/bin/portside", program).splitlines()
    newer = ("RestartSteps=", "RestartMaxDelaySec=")  # which an older systemd is not given
    unit.write_text("\n".join(line for line in lines if not line.startswith(newer)) + "\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
