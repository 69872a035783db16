"""Cutting a rendering into the texts around its contents: plain string work.

Knows prefixes, suffixes, and that a marker such as <|user|> is never cut in two. Does not know Jinja.
"""

from __future__ import annotations

from collections.abc import Sequence

from chat_templates.template import Message

__all__ = ["NoForm", "common_prefix", "cut", "prefixes", "shared_start"]


class NoForm(Exception):
    """The template is not of the form; the message says where it parts."""


def cut(
    text: str,
    messages: Sequence[Message],
    complaint: str = "it does not write the messages once each, in their order",
) -> list[str]:
    """Split `text` at the contents of `messages`. Raises `NoForm`."""
    pieces = []
    for message in messages:
        before, found, text = text.partition(message["content"])
        if not found:
            raise NoForm(complaint)
        pieces.append(before)
    if any(message["content"] in piece for message in messages for piece in (*pieces, text)):
        raise NoForm(complaint)
    return [*pieces, text]


def common_prefix(left: str, right: str) -> str:
    length = min(len(left), len(right))
    same = next((i for i in range(length) if left[i] != right[i]), length)
    return left[:same]


def common_suffix(left: str, right: str) -> str:
    return common_prefix(left[::-1], right[::-1])[::-1]


def shared_start(left: str, right: str) -> str:
    """Return the common prefix, but never a piece of a marker such as the "<" of two different ones."""
    shared = common_prefix(left, right)
    if shared not in (left, right):
        while _inside_marker(shared):
            shared = shared[:-1]
    return shared


def _inside_marker(text: str) -> bool:
    return text.rfind("<") > text.rfind(">") or text.rfind("[") > text.rfind("]")


def prefixes(head: str, rest: str) -> list[str]:
    """Return the possible user prefixes: what the first and the later questions both follow, or nothing."""
    shared = common_suffix(head, rest)
    if shared not in (head, rest):
        while shared and _inside_marker(head[: len(head) - len(shared)]):
            shared = shared[1:]
    return list(dict.fromkeys((shared, shared.lstrip(), "")))
