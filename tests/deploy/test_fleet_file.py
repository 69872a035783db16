"""portside.toml: what it means, and what is said of a file that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.fleet_file import EXAMPLE, FleetFile, read_fleet_file
from errors import BadInput


def read(tmp_path: Path, text: str) -> FleetFile:
    path = tmp_path / "portside.toml"
    path.write_text(text)
    return read_fleet_file(path)


MINIMAL = '[servers.a]\nengine = "vllm"\nmodel = "m"\n'


def test_the_example_is_valid_as_it_stands_and_with_every_key(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    assert [server.name for server in read(tmp_path, text).servers] == ["assistant", "coder"]
    everything = re.sub(r"(?m)^# (?=[a-z_]+ = )", "", text).replace('api_key_env = "ASSISTANT_KEY"', "")
    found = read(tmp_path, everything)
    assert found.memory == 20 * 2**30
    assert set(found.engines) == {
        "PORTSIDE_VLLM",
        "PORTSIDE_LMDEPLOY",
        "PORTSIDE_OLLAMA",
        "PORTSIDE_LLAMA_SERVER",
        "PORTSIDE_LLAMA_CPP_PYTHON",
    }
    assistant = found.servers[0]
    assert assistant.memory == 2 * 2**30
    assert assistant.args == ("--ctx-size", "4096")
    assert assistant.env == {"CUDA_VISIBLE_DEVICES": "0"}
    assert assistant.api_key_file == tmp_path / "assistant.key"


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.jinja").write_text("")
    monkeypatch.chdir("/")
    found = read(tmp_path, MINIMAL + 'template = "t.jinja"\n[servers.b]\nengine = "vllm"\nmodel = "/abs"\n')
    a, b = found.servers
    assert (a.model, a.template) == (tmp_path / "m", str(tmp_path / "t.jinja"))
    assert (b.model, b.template) == (Path("/abs"), "checkpoint")


def test_defaults_and_ports(tmp_path: Path) -> None:
    text = '[defaults]\nengine = "llamacpp"\nmodel = "m"\nrestart = false\n'
    text += "[servers.a]\n[servers.b]\nport = 8000\n"
    text += '[servers.c]\nrestart = true\n[servers.o]\nengine = "ollama"\n[servers.p]\nport = 0\n'
    servers = {server.name: server for server in read(tmp_path, text).servers}
    assert {name: server.port for name, server in servers.items()} == {
        "a": 8001,
        "b": 8000,
        "c": 8002,
        "o": None,
        "p": 0,
    }
    assert [server.restart for server in servers.values()] == [False, False, True, False, False]


def test_models_of_one_ollama_share_its_port(tmp_path: Path) -> None:
    text = (
        '[defaults]\nengine = "ollama"\nmodel = "m"\n[servers.a]\nport = 11434\n[servers.b]\nport = 11434\n'
    )
    assert [server.port for server in read(tmp_path, text).servers] == [11434, 11434]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[servers.a\n", "is not TOML: .*line 1"),
        ("", "has no servers"),
        ('servers = "a"\n', r"line 1: `servers` must be a table"),
        ("[server.a]\n", r"nobody knows: `server`.* Did you mean `servers`"),
        (MINIMAL + "ports = 1\n", r"line 4: \[servers.a\] has a key that nobody knows: `ports`.*`port`"),
        (MINIMAL + 'api_key = "x"\n', r"line 4: .* holds an API key.*api_key_file"),
        ('[servers.a]\nmodel = "m"\n', r"line 1: \[servers.a\] has no `engine`"),
        ('\n["servers"."a b"]\nengine = "vllm"\n', r"line 2: \[servers.a b\] has no `model`"),
        ('[servers.a]\nengine = "tgi"\nmodel = "m"\n', r"line 2: .*must be one of llamacpp, vllm.*not 'tgi'"),
        (MINIMAL + "port = 70000\n", "line 4: .*`port` must be a port, not 70000"),
        (MINIMAL + "port = true\n", "`port` must be a port"),
        (MINIMAL + 'restart = "yes"\n', "`restart` must be true or false"),
        (MINIMAL + 'args = "--x"\n', "`args` must be a list of texts"),
        (MINIMAL + "env = { A = 1 }\n", "`env` must be a table of texts"),
        (MINIMAL + 'model = ""\n', "is not TOML"),
        (MINIMAL + "memory = 4\n", 'line 4: .*`memory` is no size: 4. .*"6 GiB"'),
        (MINIMAL + 'after = ["b"]\n', r"line 4: .*`after` names no server: 'b'"),
        (MINIMAL + 'after = ["a"]\n', "`after` leads back to 'a'"),
        (MINIMAL + "startup_seconds = 0\n", "`startup_seconds` must be a number of seconds"),
        (MINIMAL + 'api_key_file = "k"\napi_key_env = "K"\n', "line 5: .*two API keys"),
        (
            MINIMAL + 'port = 9000\n[servers.b]\nengine = "vllm"\nmodel = "m"\nport = 9000\n',
            r"line 8: \[servers.b\] wants port 9000, and so does \[servers.a\]",
        ),
        ("[servers.a]\n[servers.a]\n", "is not TOML"),
        ("[up]\ntogether = 1\n", "line 2: .up. `together` must be true or false"),
        ('[engines]\nvlm = "x"\n', "Did you mean `vllm`"),
        ("[defaults]\nport = 1\n", "nobody knows: `port`"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadInput) as error:
        read(tmp_path, text)
    assert re.search(words, str(error.value), re.DOTALL), str(error.value)
    assert "portside.toml" in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--example"):
        read_fleet_file(tmp_path / "portside.toml")
    (tmp_path / "portside.toml").write_bytes(b"\xff")
    with pytest.raises(BadInput, match="not UTF-8"):
        read_fleet_file(tmp_path / "portside.toml")
