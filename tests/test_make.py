"""The targets of the Makefile are the documented commands: nothing is run, `make -n` tells."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def make(*words: str) -> subprocess.CompletedProcess[str]:
    # whether .venv is up to date is another question
    command = ["make", "--no-print-directory", "-n", "-o", ".venv/.ready", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        *(
            (("serve-" + engine, "MODEL=m"), f"portside serve {engine} m")
            for engine in ("vllm", "lmdeploy", "ollama", "llamacpp")
        ),
        (("serve-vllm", "MODEL=m", "ARGS=--dry-run"), "portside serve vllm m --dry-run"),
        (
            ("serve-ollama", "MODEL=m", "TEMPLATE=family:qwen2.5", "ARGS=--detach"),
            "portside serve ollama m --template family:qwen2.5 --detach",
        ),
        (("health",), "portside health http://127.0.0.1:8000"),
        (("health", "URL=http://h:1", "MODEL=m"), "portside health http://h:1 --checkpoint m"),
        (("stop",), "portside stop --all"),
        (("engines",), "portside engines"),
        (("gguf-q8", "MODEL=m", "OUT=o"), "portside gguf m --type q8 -o o"),
        (("modelfile", "MODEL=m"), "portside modelfile m"),
        (("templates", "MODEL=m"), "portside template m"),
    ],
)
def test_a_target_is_the_documented_command(words: tuple[str, ...], command: str) -> None:
    done = make(*words)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.split() == f".venv/bin/{command}".split()


@pytest.mark.parametrize("target", ["serve-vllm", "gguf-q8", "modelfile", "templates"])
def test_a_target_without_its_model_says_how(target: str) -> None:
    done = make(target)
    assert done.returncode == 2
    assert f"make {target} MODEL=path/to/merged-checkpoint" in done.stderr
