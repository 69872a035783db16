"""A conversation at the terminal: what the person types, and lines that begin with a slash.

Does not know servers: `deploy.chat` does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

import console
from errors import PortsideError

if TYPE_CHECKING:
    from deploy.chat import Chat

__all__ = ["command", "converse"]

_HELP = "/reset, /system TEXT, /save FILE; an empty line or Ctrl-D leaves."


def converse(talk: Chat, messages: Sequence[str], *, quiet: bool = False) -> None:
    """Stream the replies to `messages`, or talk with the person at the terminal until they leave."""
    if messages:
        for message in messages:
            _stream(talk, message, quiet=quiet)
        return
    console.err.print(f"[dim]Talking with {escape(talk.model)}. {_HELP}[/]")
    while message := _ask():
        if message.startswith("/"):
            console.err.print(f"[dim]{escape(command(talk, message))}[/]")
        else:
            _stream(talk, message, quiet=False)
            console.err.print(f"[dim]{_how_it_ended(talk)}[/]")


def command(talk: Chat, line: str) -> str:
    """Do what a line that begins with a slash asks for, and return what to say about it."""
    word, _, rest = line.partition(" ")
    rest = rest.strip()
    if word == "/reset":
        talk.reset()
        return "Begun again."
    if word == "/system":
        talk.set_system(rest)
        return "Begun again with this system message." if rest else "Begun again without a system message."
    if word == "/save" and rest:
        try:
            talk.save(Path(rest).expanduser())
        except PortsideError as error:
            return error.message
        return f"Saved to {rest}."
    return f"There is no {line!r} here: {_HELP}"


def _how_it_ended(talk: Chat) -> str:
    turn = talk.last
    if turn is None:
        return ""
    speed = turn.tokens_per_second
    parts = [
        f"finish_reason {turn.finish_reason}",
        *([f"{turn.tokens} tokens"] if turn.tokens is not None else []),
        *([f"{speed:.1f} tokens/s"] if speed is not None else []),
    ]
    return ", ".join(parts)


def _ask() -> str:
    try:
        return input("\n> ").strip()
    except EOFError:
        return ""


def _stream(talk: Chat, message: str, *, quiet: bool) -> None:
    for piece in talk.say(message):
        if not quiet:
            sys.stdout.write(piece)
            sys.stdout.flush()
    if not quiet:
        sys.stdout.write("\n")
