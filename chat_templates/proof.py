"""The proof: every dialect's prompt against the training prompt, case by case.

Knows the suite's classes and what counts as exact, refused and absent. Knows no dialect and no engine: it
asks each dialect to write and to render, and compares texts character by character.

A case that the training template itself refuses asks nothing of a dialect and is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from chat_templates.dialects import DIALECTS, Dialect, DialectFacts, DialectRefused, known_limits
from chat_templates.sources.source import TemplateSource
from chat_templates.stops import Stops, analyse_stops
from chat_templates.suite import SuiteClass, measured_suite
from checkpoint import Checkpoint
from errors import TemplateError, UsageError

__all__ = ["ClassResult", "DialectProof", "Difference", "Proof", "difference_of", "facts_of", "prove"]

Status = Literal["exact", "refused", "absent"]


@dataclass(frozen=True)
class Difference:
    """The first case in which a dialect's prompt is not the training prompt."""

    case: str
    expected: str
    actual: str
    index: int
    """The first character that differs; the shorter text's length when it is a prefix of the other."""

    def as_json(self) -> dict[str, Any]:
        return {"case": self.case, "expected": self.expected, "actual": self.actual, "index": self.index}


@dataclass(frozen=True)
class ClassResult:
    """How a dialect does on one class of conversations."""

    status: Status
    reason: str | None = None
    """Why it is refused or absent, in words."""
    cases: int = 0
    """Conversations compared (exact) or compared up to the first difference."""
    difference: Difference | None = None

    def as_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"status": self.status, "reason": self.reason, "cases": self.cases}
        if self.difference is not None:
            data["difference"] = self.difference.as_json()
        return data


@dataclass(frozen=True)
class DialectProof:
    """One dialect's text and what it is worth."""

    text: str | None
    refusal: str | None
    """Why the dialect cannot say the template at all."""
    classes: Mapping[str, ClassResult]

    @property
    def ok(self) -> bool:
        """Whether the dialect is exact for plain chats: only then is it written without being asked twice."""
        return self.text is not None and self.classes["chat"].status == "exact"

    @property
    def exact(self) -> bool:
        """Whether nothing at all is refused."""
        return self.text is not None and all(r.status != "refused" for r in self.classes.values())


@dataclass(frozen=True)
class Proof:
    """What was measured for one template source."""

    source: TemplateSource
    stops: Stops | None
    dialects: Mapping[str, DialectProof]

    @property
    def ok(self) -> bool:
        """Whether every dialect is exact for plain chats."""
        return all(dialect.ok for dialect in self.dialects.values())

    def as_json(self, files: Mapping[str, Path] | None = None) -> dict[str, Any]:
        """Return plain data; `files` are the paths that the dialects were written to, by dialect."""
        written = files or {}
        return {
            "source": {
                "spec": self.source.spec,
                "description": self.source.description,
                "origin": self.source.origin,
                "form": self.source.form is not None,
                "form_refusal": self.source.form_refusal,
            },
            "dialects": {
                name: {
                    "ok": dialect.ok,
                    "refusal": dialect.refusal,
                    "classes": {c: result.as_json() for c, result in dialect.classes.items()},
                    "file": str(written[name]) if name in written else None,
                }
                for name, dialect in self.dialects.items()
            },
            "stops": None if self.stops is None else _stops_json(self.stops),
        }


def prove(
    source: TemplateSource,
    checkpoint: Checkpoint | None,
    dialects: Sequence[str] = ("jinja", "ollama", "lmdeploy"),
) -> Proof:
    """Write every dialect and compare its prompts with the training prompts of the whole suite.

    Raises `UsageError` for a dialect that does not exist; whatever a dialect cannot do is in the result.
    """
    unknown = [name for name in dialects if name not in DIALECTS]
    if unknown:
        raise UsageError(
            f"There is no dialect {unknown[0]!r}.", hint=f"The dialects are {', '.join(DIALECTS)}."
        )
    stops = analyse_stops(source, checkpoint) if checkpoint is not None else None
    suite = measured_suite(source)
    proofs = {}
    for name in dialects:
        facts = facts_of(source, checkpoint, gguf=DIALECTS[name].reads == "gguf")
        proofs[name] = _prove_dialect(DIALECTS[name], source, stops, facts, suite)
    return Proof(source, stops, proofs)


def facts_of(source: TemplateSource, checkpoint: Checkpoint | None, *, gguf: bool = False) -> DialectFacts:
    """Return what the dialects must know about the tokenizer; without a checkpoint it adds no BOS.

    A GGUF of ours (`gguf`) adds BOS only where the training prompts begin with it: llama.cpp adds it to every
    prompt or to none.
    """
    facts = DialectFacts(source.bos_token, source.eos_token, other_tokens=source.other_tokens)
    if checkpoint is None:
        return facts
    adds_bos = checkpoint.tokenizer.adds_bos and not (gguf and source.begins_with_bos() is False)
    return replace(facts, adds_bos=adds_bos, name=checkpoint.name)


def _prove_dialect(
    dialect: Dialect,
    source: TemplateSource,
    stops: Stops | None,
    facts: DialectFacts,
    suite: Sequence[SuiteClass],
) -> DialectProof:
    try:
        text = dialect.write(source, stops, facts)
    except DialectRefused as refusal:
        results = {c.name: _without_text(c, refusal.message) for c in suite}
        return DialectProof(None, refusal.message, results)
    results = {c.name: _prove_class(dialect, text, facts, c) for c in suite}
    limits = known_limits(dialect.name, source.form, facts)
    return DialectProof(text, None, {name: _explained(r, limits.get(name)) for name, r in results.items()})


def _without_text(suite_class: SuiteClass, reason: str) -> ClassResult:
    if suite_class.absent is not None:
        return ClassResult("absent", suite_class.absent)
    return ClassResult("refused", reason)


def _prove_class(dialect: Dialect, text: str, facts: DialectFacts, suite_class: SuiteClass) -> ClassResult:
    if suite_class.absent is not None:
        return ClassResult("absent", suite_class.absent)
    for number, (case, expected) in enumerate(suite_class.truths, start=1):
        try:
            actual = dialect.render(
                text,
                case.messages,
                facts,
                add_generation_prompt=case.add_generation_prompt,
                continue_final_message=case.continue_final_message,
                tools=case.tools,
            )
        except TemplateError as error:
            return ClassResult("refused", f"{error.message.rstrip('.')} ({case.name}).", number)
        difference = difference_of(case.name, expected, actual)
        if difference is not None:
            return ClassResult("refused", _in_words(difference), number, difference)
    return ClassResult("exact", None, len(suite_class.truths))


def _explained(result: ClassResult, limit: str | None) -> ClassResult:
    """Put the dialect's own words for a measured failure in front of the bare difference."""
    if result.status != "refused" or limit is None:
        return result
    words = limit.rstrip(".")
    return replace(result, reason=f"{words[:1].upper()}{words[1:]}. {result.reason}")


def difference_of(case: str, expected: str, actual: str) -> Difference | None:
    """Return where two prompts of a case part; None where they are the same."""
    if actual == expected:
        return None
    length = min(len(expected), len(actual))
    index = next((i for i in range(length) if expected[i] != actual[i]), length)
    return Difference(case, expected, actual, index)


def _in_words(difference: Difference) -> str:
    at = difference.index
    expected, actual = difference.expected[at : at + 30], difference.actual[at : at + 30]
    return (
        f"With {difference.case}, character {at} of the prompt differs: the training prompt goes on with "
        f"{expected!r}, this one with {actual!r}."
    )


def _stops_json(stops: Stops) -> dict[str, Any]:
    return {
        "strings": list(stops.strings),
        "ids": list(stops.ids),
        "turn_end": stops.turn_end,
        "multi_token": list(stops.multi_token),
        "findings": [finding.as_json() for finding in stops.findings],
    }
