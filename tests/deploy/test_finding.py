"""Where engines are looked for: a variable, portside.toml, PATH, what Portside installed, in this order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import ServeRequest, plan_serving
from deploy.engines.configured import configured_path
from deploy.engines.environments import (
    Place,
    find_environment,
    find_program,
    installed_directory,
    told_version,
)
from errors import EngineMissing, UsageError

MakeCheckpoint = Callable[..., Path]
PLACE = Place("PORTSIDE_VLLM", "vllm", "vllm")
PYTHON = ("llama_cpp_python-0.3.36", "uvicorn-1", "fastapi-1", "pydantic_settings-2", "sse_starlette-3")


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache, a PATH and a working directory of the test's own."""
    monkeypatch.setenv("PORTSIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "path" / "bin"))
    for name in ("VLLM", "LMDEPLOY", "LLAMA_SERVER", "LLAMA_CPP_PYTHON", "OLLAMA"):
        monkeypatch.delenv(f"PORTSIDE_{name}", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def environment(root: Path, *distributions: str, programs: tuple[str, ...] = ("python",)) -> Path:
    for name in distributions:
        (root / "lib" / "python3.12" / "site-packages" / f"{name}.dist-info").mkdir(parents=True)
    for name in programs:
        program(root / "bin" / name)
    return root


def test_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> Path | None:
        environment, _ = find_environment(PLACE, ("vllm",))
        return environment.program if environment else None

    places = {name: tmp_path / name for name in ("variable", "toml", "path")}
    places["installed"] = installed_directory("vllm")
    assert found() is None
    for name in ("installed", "path"):
        environment(places[name], "vllm-1", programs=("python", "vllm"))
        assert found() == places[name] / "bin" / "vllm"
    environment(places["toml"], "vllm-1", programs=("python", "vllm"))
    Path("portside.toml").write_text('[engines]\nvllm = "../toml"\n')
    assert found() == tmp_path / "here" / "../toml/bin/vllm"
    environment(places["variable"], "vllm-1", programs=("python", "vllm"))
    monkeypatch.setenv("PORTSIDE_VLLM", str(places["variable"]))
    assert found() == places["variable"] / "bin" / "vllm"


def test_what_the_user_names_is_never_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(tmp_path / "path", "vllm-1", programs=("python", "vllm"))
    Path("portside.toml").write_text('[engines]\nvllm = "gone"\nllama_server = "gone"\n')
    found, named = find_environment(PLACE, ("vllm",))
    assert found is None
    assert named == f"engines.vllm in portside.toml ({tmp_path / 'here' / 'gone'})"
    with pytest.raises(
        EngineMissing, match=r"engines.llama_server in portside.toml .* names no llama-server"
    ):
        plan_serving(ServeRequest("llamacpp", tmp_path, runtime="llama-server"))
    monkeypatch.setenv("PORTSIDE_VLLM", str(tmp_path / "path"))
    assert find_environment(PLACE, ("vllm",))[0] is not None


def test_programs(tmp_path: Path) -> None:
    place = Place("PORTSIDE_OLLAMA", "ollama", "ollama")
    assert find_program(place) == (None, None)
    installed = program(installed_directory("ollama") / "bin" / "ollama")
    assert find_program(place) == (str(installed), None)
    for spelling in ("../opt", "../opt/bin", "../opt/bin/ollama"):
        program(tmp_path / "opt" / "bin" / "ollama")
        Path("portside.toml").write_text(f'[engines]\nollama = "{spelling}"\n')
        path, _ = find_program(place)
        assert path is not None
        assert Path(path).samefile(tmp_path / "opt/bin/ollama")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[engines", "Cannot read"),
        ("engines = 3", "'engines'"),
        ('[engines]\nvlm = "x"', "'vlm'"),
        ("[engines]\nvllm = 3", "is not a path: 3"),
    ],
)
def test_a_portside_toml_that_cannot_be_read(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "portside.toml").write_text(text)
    with pytest.raises(UsageError, match=match):
        configured_path("vllm", tmp_path)


def test_other_tables_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "portside.toml").write_text('[models.a]\npath = "x"\n')
    assert configured_path("vllm", tmp_path) is None


@pytest.mark.parametrize("spelling", ["", "bin", "bin/python"])
def test_the_whole_command_of_llama_cpp_python(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    root = environment(tmp_path / "lcp", *PYTHON, "starlette_context-0.3.6")
    monkeypatch.setenv("PORTSIDE_LLAMA_CPP_PYTHON", str(root / spelling))
    monkeypatch.setattr("deploy.engines.llamacpp.compute_threads", lambda: 3)
    model = make_checkpoint("mine")
    found = plan_serving(
        ServeRequest("llamacpp", model, runtime="llama-cpp-python", port=8123, api_key="hush")
    )
    assert found.argv == (
        *(str(root / "bin/python"), "-P", "-m", "llama_cpp.server", "--model", str(found.served)),
        *("--host", "127.0.0.1", "--port", "8123", "--model_alias", "mine"),
        *("--chat_format", "chat_template.default", "--n_ctx", "2048", "--n_gpu_layers", "-1"),
        *("--n_threads", "3", "--n_threads_batch", "3"),
        *("--logits_all", "false", "--interrupt_requests", "false"),
    )
    assert found.env == {"API_KEY": "hush"}
    assert {"HOST", "PORT", "port", "CONFIG_FILE", "N_*"} <= set(found.cleared)
    assert any("repeat_penalty" in note for note in found.notes)


def test_llama_cpp_python_that_cannot_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    program(tmp_path / "path" / "bin" / "python3")  # any python is no llama-cpp-python

    def plan(source: str = "checkpoint") -> None:
        plan_serving(ServeRequest("llamacpp", tmp_path / "m.gguf", runtime="llama-cpp-python", source=source))

    with pytest.raises(EngineMissing, match="no python on PATH has it"):
        plan()
    environment(installed_directory("llama_cpp_python"), *PYTHON)
    with pytest.raises(EngineMissing, match="lacks its server's packages: starlette-context"):
        plan()
    monkeypatch.setenv("PORTSIDE_LLAMA_CPP_PYTHON", str(tmp_path / "gone"))
    with pytest.raises(EngineMissing, match="gone names none"):
        plan()
    monkeypatch.delenv("PORTSIDE_LLAMA_CPP_PYTHON")
    environment(installed_directory("llama_cpp_python"), "starlette_context-0.3.6", programs=())
    plan()
    with pytest.raises(UsageError, match="takes no template but the one in the GGUF file"):
        plan("family:smollm2")


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("echo 'Warning: could not connect'; echo 'ollama version is 0.30.1'", "0.30.1"),
        ("echo 'version: 6721 (bd3a2c1)' >&2", "6721"),
        ("exit 1", None),
    ],
)
def test_a_program_tells_its_version(tmp_path: Path, says: str, version: str | None) -> None:
    path = program(tmp_path / "engine")
    path.write_text(f"#!/bin/sh\n{says}\n")
    assert told_version(str(path)) == version
