"""A proof as one page of HTML: every conversation with the training prompt and each dialect's beside it.

Knows the page's model and how a prompt is cut into pieces to mark. The page (report.html.jinja) loads nothing
and runs nothing. Every text in it may be hostile: templates and messages are escaped, and characters nobody
can see are written as symbols.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from chat_templates.conversations import Case
from chat_templates.proof_results import ClassResult, Comparison, Proof
from chat_templates.show import visible
from checkpoint import Checkpoint, Finding
from files import write_text

__all__ = ["Piece", "pieces", "report_html", "write_report"]

_PAGE = Path(__file__).with_name("report.html.jinja")
_WHITE = re.compile(r"(\s+)")
_LOOKS_SPECIAL = r"<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>|</?s>|\[/?INST\]"
"""Marked although no tokenizer says that they are tokens."""


@dataclass(frozen=True)
class Piece:
    """A part of a prompt, ready to be shown."""

    text: str
    """White space and invisible characters are symbols."""
    kind: str
    """plain, white or special."""
    differs: bool
    """It is not in the other prompt."""


def write_report(
    path: Path, proof: Proof, findings: Sequence[Finding] = (), checkpoint: Checkpoint | None = None
) -> Path:
    """Write the page to `path` and return it. `proof` should hold every case; see `prove`.

    Raises `OutputError` where the file cannot be written.
    """
    tokens = [] if checkpoint is None else [token.content for token in checkpoint.tokenizer.added]
    page = report_html(proof, findings, tokens, name=checkpoint.name if checkpoint else proof.source.spec)
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))
    return path


def report_html(
    proof: Proof, findings: Sequence[Finding] = (), tokens: Sequence[str] = (), *, name: str = "model"
) -> str:
    """Return the page; `tokens` are the special tokens to mark."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"visible": visible, "readable": _readable}
    special = _special(tokens)
    return environment.from_string(_PAGE.read_text(encoding="utf-8")).render(
        name=name,
        proof=proof,
        findings=[*findings, *(proof.stops.findings if proof.stops else ())],
        classes=[_class(proof, key, special) for key in _class_names(proof)],
        messages=_messages,
    )


def _readable(text: str) -> str:
    """Return `text` with blanks as they are, and whatever else nobody can see as symbols."""
    return "".join(character if character == " " else visible(character) for character in text)


def pieces(text: str, other: str | None, special: re.Pattern[str]) -> tuple[Piece, ...]:
    """Cut a prompt at tokens, white space and at what `other` does not have in its middle."""
    start, end = _changed(text, other)
    parts = ((text[:start], False), (text[start:end] or "", True), (text[end:], False))
    found = [piece for part, differs in parts for piece in _cut(part, differs, special)]
    if other is not None and text != other and start == end:
        at = sum(1 for _ in _cut(text[:start], False, special))
        found.insert(at, Piece("∎", "plain", True))  # the other prompt has something here
    return tuple(found)


def _changed(text: str, other: str | None) -> tuple[int, int]:
    """Return the range of `text` between the common beginning and the common end; empty if they are equal."""
    if other is None or text == other:
        return len(text), len(text)
    shorter = min(len(text), len(other))
    start = next((i for i in range(shorter) if text[i] != other[i]), shorter)
    left = shorter - start
    tail = next((i for i in range(left) if text[-1 - i] != other[-1 - i]), left)
    return start, len(text) - tail


def _cut(text: str, differs: bool, special: re.Pattern[str]) -> Iterator[Piece]:
    at = 0
    for match in special.finditer(text):
        yield from _words(text[at : match.start()], differs)
        yield Piece(visible(match[0]), "special", differs)
        at = match.end()
    yield from _words(text[at:], differs)


def _words(text: str, differs: bool) -> Iterator[Piece]:
    for part in _WHITE.split(text):
        if part:
            white = part.isspace()
            shown = "\n".join(visible(line + "\n") for line in part.split("\n"))[:-1] if white else ""
            yield Piece(shown if white else visible(part), "white" if white else "plain", differs)


def _special(tokens: Sequence[str]) -> re.Pattern[str]:
    known = sorted({token for token in tokens if token.strip()}, key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, known), _LOOKS_SPECIAL]))


def _class_names(proof: Proof) -> list[str]:
    return list(next(iter(proof.dialects.values())).classes) if proof.dialects else []


def _class(proof: Proof, name: str, special: re.Pattern[str]) -> dict[str, Any]:
    results = {dialect: proved.classes[name] for dialect, proved in proof.dialects.items()}
    return {"name": name, "results": results, "cases": list(_cases(proof, results, special))}


def _cases(
    proof: Proof, results: dict[str, ClassResult], special: re.Pattern[str]
) -> Iterator[dict[str, Any]]:
    """Yield the conversations of a class; none where the training template has nothing to say on it."""
    longest = max((result.compared for result in results.values()), key=len, default=())
    for number, first in enumerate(longest):
        dialects = {
            dialect: _shown(result.compared[number], special)
            for dialect, result in results.items()
            if number < len(result.compared)
        }
        yield {
            "case": first.case,
            "training": pieces(first.expected, None, special),
            "dialects": dialects,
            "same": all(shown["same"] for shown in dialects.values()),
        }


def _shown(comparison: Comparison, special: re.Pattern[str]) -> dict[str, Any]:
    actual, expected = comparison.actual, comparison.expected
    if actual is None:
        return {"same": False, "error": comparison.error, "pieces": (), "training": ()}
    return {
        "same": comparison.same,
        "error": None,
        "pieces": pieces(actual, expected, special),
        "training": () if comparison.same else pieces(expected, actual, special),
    }


def _messages(case: Case) -> list[tuple[str, str]]:
    """Return role and text of each message; what is not text is written as JSON."""
    rows = []
    for message in case.messages:
        rest = {key: value for key, value in message.items() if key not in ("role", "content")}
        content = message.get("content") or ""
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        rows.append((message["role"], text + (f" {json.dumps(rest, ensure_ascii=False)}" if rest else "")))
    if case.tools is not None:
        rows.append(("tools", json.dumps(case.tools, ensure_ascii=False)))
    return rows
