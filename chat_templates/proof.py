"""The proof: every dialect's prompt against the training prompt, case by case.

Knows the suite's classes and what counts as exact, refused and absent; `proof_results` holds what it finds.
Knows no dialect and no engine: it asks each dialect to write and to render, and compares texts character by
character.

A case that the training template itself refuses asks nothing of a dialect and is not counted.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace

from chat_templates.conversations import Case
from chat_templates.dialects import DIALECTS, Dialect, DialectFacts, DialectRefused, known_limits
from chat_templates.proof_results import ClassResult, Comparison, DialectProof, Difference, Proof
from chat_templates.sources.source import TemplateSource
from chat_templates.stops import Stops, analyse_stops
from chat_templates.suite import SuiteClass, measured_suite
from chat_templates.token_ids import IdsResult, TokenIds
from checkpoint import Checkpoint
from errors import TemplateError, UsageError

__all__ = ["facts_of", "prove"]


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


def _in_words(difference: Difference) -> str:
    at = difference.index
    expected, actual = difference.expected[at : at + 30], difference.actual[at : at + 30]
    return (
        f"With {difference.case}, character {at} of the prompt differs: the training prompt goes on with "
        f"{expected!r}, this one with {actual!r}."
    )
