"""The proof: every dialect's prompt against the training prompt, case by case.

Knows the suite's classes and what counts as exact, refused and absent. Knows no dialect and no engine: it
asks each dialect to write and to render, and compares texts character by character.

A case that the training template itself refuses asks nothing of a dialect and is not counted.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from chat_templates.conversations import Case
from chat_templates.dialects import DIALECTS, Dialect, DialectFacts, DialectRefused, known_limits
from chat_templates.sources.source import TemplateSource
from chat_templates.stops import Stops, analyse_stops
from chat_templates.suite import SuiteClass, measured_suite
from chat_templates.token_ids import IdsResult, TokenIds
from checkpoint import Checkpoint
from errors import TemplateError, UsageError

__all__ = [
    "ClassResult",
    "Comparison",
    "DialectProof",
    "Difference",
    "Proof",
    "difference_of",
    "facts_of",
    "prove",
]

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
class Comparison:
    """One conversation in one dialect."""

    case: Case
    expected: str
    """The training prompt."""
    actual: str | None
    """The dialect's prompt; None where it has none."""
    error: str | None = None
    """Why it has none."""

    @property
    def same(self) -> bool:
        return self.actual == self.expected

    @property
    def difference(self) -> Difference | None:
        return None if self.actual is None else difference_of(self.case.name, self.expected, self.actual)


@dataclass(frozen=True)
class ClassResult:
    """How a dialect does on one class of conversations."""

    status: Status
    reason: str | None = None
    """Why it is refused or absent, in words."""
    cases: int = 0
    """Conversations compared (exact) or compared up to the first difference."""
    difference: Difference | None = None
    compared: tuple[Comparison, ...] = ()
    """The conversations themselves; not part of the JSON."""

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
    ids: IdsResult | None = None
    """Whether the prompts that are equal as text are so as token ids; None without a tokenizer."""

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
                    "ids": None if dialect.ids is None else dialect.ids.as_json(),
                    "file": str(written[name]) if name in written else None,
                }
                for name, dialect in self.dialects.items()
            },
            "stops": None if self.stops is None else _stops_json(self.stops),
        }


def prove(
    source: TemplateSource,
    checkpoint: Checkpoint | None,
    dialects: Sequence[str] = tuple(DIALECTS),
    *,
    every_case: bool = False,
) -> Proof:
    """Write every dialect and compare its prompts with the training prompts of the whole suite.

    A class ends at its first difference, unless a report wants to show `every_case`.
    Raises `UsageError` for a dialect that does not exist; whatever a dialect cannot do is in the result.
    """
    unknown = [name for name in dialects if name not in DIALECTS]
    if unknown:
        raise UsageError(
            f"There is no dialect {unknown[0]!r}.", hint=f"The dialects are {', '.join(DIALECTS)}."
        )
    stops = analyse_stops(source, checkpoint) if checkpoint is not None else None
    # One moment for all, lest midnight come between two prompts.
    dated = replace(source, now=source.now or datetime.datetime.now())
    suite = measured_suite(dated)
    ids = TokenIds(checkpoint.tokenizer) if checkpoint is not None else None
    proofs = {}
    for name in dialects:
        facts = facts_of(dated, checkpoint, gguf=DIALECTS[name].reads == "gguf")
        proved = _prove_dialect(DIALECTS[name], source, stops, facts, suite, every_case)
        proofs[name] = proved if ids is None else _with_ids(name, proved, facts, ids)
    return Proof(source, stops, proofs)


def facts_of(source: TemplateSource, checkpoint: Checkpoint | None, *, gguf: bool = False) -> DialectFacts:
    """Return what the dialects must know about the tokenizer; without a checkpoint it adds no BOS.

    A GGUF of ours (`gguf`) adds BOS only where the training prompts begin with it: llama.cpp adds it to every
    prompt or to none.
    """
    facts = DialectFacts(
        source.bos_token,
        source.eos_token,
        other_tokens=source.other_tokens,
        typed_content=source.typed_content,
        now=source.now,
    )
    if checkpoint is None:
        return facts
    adds_bos = checkpoint.tokenizer.adds_bos and not (gguf and source.begins_with_bos() is False)
    return replace(facts, adds_bos=adds_bos, name=checkpoint.name, model_type=checkpoint.config.model_type)


def _prove_dialect(
    dialect: Dialect,
    source: TemplateSource,
    stops: Stops | None,
    facts: DialectFacts,
    suite: Sequence[SuiteClass],
    every_case: bool,
) -> DialectProof:
    try:
        text = dialect.write(source, stops, facts)
    except DialectRefused as refusal:
        results = {c.name: _without_text(c, refusal.message) for c in suite}
        return DialectProof(None, refusal.message, results)
    results = {c.name: _prove_class(dialect, text, facts, c, every_case) for c in suite}
    limits = known_limits(dialect.name, source.form, facts)
    return DialectProof(text, None, {name: _explained(r, limits.get(name)) for name, r in results.items()})


def _with_ids(name: str, proof: DialectProof, facts: DialectFacts, ids: TokenIds) -> DialectProof:
    """Compare what is exact as text as token ids too; where they differ, a class is refused."""
    classes, results = dict(proof.classes), []
    for kind, result in proof.classes.items():
        if result.status != "exact":
            continue
        found = ids.compared(name, facts, [(c.case.name, c.expected) for c in result.compared])
        results.append(found)
        if found.status == "differs":
            classes[kind] = replace(result, status="refused", reason=found.reason)
    if not results:
        return proof
    return replace(proof, classes=classes, ids=IdsResult.of_all(results))


def _without_text(suite_class: SuiteClass, reason: str) -> ClassResult:
    if suite_class.absent is not None:
        return ClassResult("absent", suite_class.absent)
    return ClassResult("refused", reason)


def _prove_class(
    dialect: Dialect, text: str, facts: DialectFacts, suite_class: SuiteClass, every_case: bool
) -> ClassResult:
    if suite_class.absent is not None:
        return ClassResult("absent", suite_class.absent)
    compared = []
    for case, expected in suite_class.truths:
        compared.append(_compared(dialect, text, facts, case, expected))
        if not every_case and not compared[-1].same:
            break
    found = tuple(compared)
    for number, comparison in enumerate(found, start=1):
        if comparison.error is not None:
            reason = f"{comparison.error.rstrip('.')} ({comparison.case.name})."
            return ClassResult("refused", reason, number, compared=found)
        difference = comparison.difference
        if difference is not None:
            return ClassResult("refused", _in_words(difference), number, difference, found)
    return ClassResult("exact", None, len(found), compared=found)


def _compared(dialect: Dialect, text: str, facts: DialectFacts, case: Case, expected: str) -> Comparison:
    try:
        actual = dialect.render(
            text,
            case.messages,
            facts,
            add_generation_prompt=case.add_generation_prompt,
            continue_final_message=case.continue_final_message,
            tools=case.tools,
            thinking=case.thinking,
        )
    except TemplateError as error:
        return Comparison(case, expected, None, error.message)
    return Comparison(case, expected, actual)


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
