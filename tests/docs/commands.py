"""The commands in the documents' `sh` blocks, read and run as a reader would run them.

A page is read from top to bottom in one directory of its own, so a command finds what an earlier one made.
What cannot stay as it is in a test is changed by rule, never by page: port 8000 becomes a free one, a server
of the embedded engine goes into the background, other engines and Open WebUI print their plan, a load is
small, and what would go on for ever is looked at once. What needs a hub is left to the hub's own tests.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCUMENTS", "FOREIGN", "Command", "asks_a_server", "commands_of", "for_a_test"]

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = tuple(
    path.relative_to(ROOT).as_posix() for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
)
FOREIGN = frozenset(
    (
        *("xtuner", "llamafactory-cli"),
        *("docker", "docker-compose", "kubectl", "ollama", "ray", "vllm-router", "systemctl"),
        *("sudo", "cd", "git", "curl", "pip"),
    )
)
"""Programs of others: they are the reader's, and are not run."""

_BLOCK = re.compile(r"^```sh\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
_ASSIGNMENT = re.compile(r"^(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)$", re.DOTALL)
_LOCAL_PORT = re.compile(r"(?<=127\.0\.0\.1:)80\d\d\b")
_HUBS = ("hf:", "modelscope:")
_PLANS_ONLY = ("webui", "up", "quantize")
_ONCE = {"health": "--watch", "logs": "-f"}


@dataclass(frozen=True)
class Command:
    """One command of a document."""

    line: int
    """Where it stands in the document, counted from 1."""
    env: tuple[tuple[str, str], ...]
    """Assignments in front of it."""
    words: tuple[str, ...]
    output: str | None = None
    """The file that its output goes to."""

    def __str__(self) -> str:
        return shlex.join(self.words)

    @property
    def program(self) -> str:
        return self.words[0] if self.words else ""

    @property
    def needs_hub(self) -> bool:
        return "fetch" in self.words[:2] or any(word.startswith(_HUBS) for word in self.words)


def commands_of(text: str) -> Iterator[Command]:
    """Yield the commands of all `sh` blocks of a document, in their order."""
    for block in _BLOCK.finditer(text):
        first = text.count("\n", 0, block.start("body")) + 1
        pending, began = "", first
        for number, line in enumerate(block["body"].splitlines(), start=first):
            if not pending:
                began = number
            pending += line
            if line.endswith("\\"):
                pending = pending[:-1]
                continue
            words = shlex.split(pending, comments=True)
            pending = ""
            if words:
                yield _command(began, words)


def _command(line: int, words: list[str]) -> Command:
    if words[0] == "export":
        words = words[1:]
    env = []
    while words and (assignment := _ASSIGNMENT.match(words[0])):
        env.append((assignment["name"], assignment["value"]))
        words = words[1:]
    output = None
    if ">" in words:
        words, output = words[: words.index(">")], words[-1]
    return Command(line, tuple(env), tuple(words), output)


def for_a_test(words: tuple[str, ...], port: int) -> tuple[str, ...]:
    """Return the words of a `portside` command as a test runs them; servers are looked for at `port`."""
    verb = words[1]
    words = tuple(_LOCAL_PORT.sub(str(port), word) for word in words)
    if verb == "serve":
        return _served(words, port)
    if verb == "chat" and "-m" not in words:
        return (*words, "-m", "What is the capital of France? Answer in one sentence.")
    if verb == "bench":
        load = ("1" if before == "-c" else word for before, word in zip(("", *words), words, strict=False))
        return (*load, "-c", "1", "--requests", "4", "--max-tokens", "8")
    if verb == "compare":
        return (*words, "--windows", "1") if "--question" not in words and "--url" not in words else words
    installs = words[1:3] == ("engines", "install")
    plans = {"--dry-run", "--settings", "--example", "--install"}
    if (verb in _PLANS_ONLY or installs) and not plans & set(words):
        return (*words, "--dry-run")
    return tuple(word for word in words if word != _ONCE.get(verb))


def asks_a_server(words: tuple[str, ...]) -> bool:
    """Whether a `portside` command, as `for_a_test` returns it, speaks to a server that must run already."""
    return words[1] != "serve" and any(word.startswith("http://127.0.0.1:") for word in words)


def _served(words: tuple[str, ...], port: int) -> tuple[str, ...]:
    cut = words.index("--") if "--" in words else len(words)
    ours, engine_args = words[:cut], words[cut:]
    if "--dry-run" in ours:
        return words
    if ours[2] != "llamacpp" or "--as-is" in ours:
        return (*ours, "--dry-run", *engine_args)
    at = () if "--port" in ours else ("--port", str(port))
    detached = () if "--detach" in ours else ("--detach",)
    return (*ours, *at, *detached, *engine_args)
