"""What is wrong with a checkpoint's chat template, as findings.

Knows the template as it is stored and the source it is said to be trained with. The stop tokens' findings
come with `analyse_stops`.
"""

from __future__ import annotations

from dataclasses import replace

from chat_templates.conversations import cases_of
from chat_templates.jinja_engine import JinjaRequest, RenderFailed, shared_worker
from chat_templates.proof_results import Difference, difference_of
from chat_templates.sources.load import load_source, other_tokens, special_tokens
from chat_templates.sources.probe import depends_on_date, reads_parts_only
from chat_templates.sources.source import TemplateSource
from checkpoint import Checkpoint, Finding
from errors import TemplateError

__all__ = ["inspect_template", "template_mismatch"]

QUESTION = "Hello"
_NAME_IT = "Name the template it was trained with: --template family:NAME, FILE.jinja or FILE.toml."


def inspect_template(checkpoint: Checkpoint, source: TemplateSource | None = None) -> tuple[Finding, ...]:
    """Return the findings about the template stored in `checkpoint`, served as trained with `source`.

    Without `source` the stored template is taken at its word.
    """
    stored = checkpoint.chat_template
    foreign = source is not None and source.spec != "checkpoint"
    if stored is None:
        return (_missing(checkpoint, foreign),)
    bos, eos = special_tokens(checkpoint)
    question = JinjaRequest(
        ({"role": "user", "content": QUESTION},),
        bos_token=bos,
        eos_token=eos,
        variables=other_tokens(checkpoint),
    )
    question = replace(question, typed_content=reads_parts_only(stored, question))
    result = shared_worker().render_all(stored, [question])[0]
    if isinstance(result, RenderFailed):
        return (_broken(result, foreign),)
    findings = []
    if QUESTION not in result:
        findings.append(_deaf())
    if depends_on_date(stored, question):
        findings.append(_dated())
    if foreign and source is not None:
        findings += _differs(stored, source, question)
    return tuple(findings)


def template_mismatch(checkpoint: Checkpoint, source: TemplateSource) -> Difference | None:
    """Return the first plain conversation in which the stored template's prompt is not the training prompt.

    `actual` is what the stored one says. None where they agree, and where no stored template works.
    """
    if source.spec == "checkpoint":
        return None
    try:
        stored = load_source("checkpoint", checkpoint)
    except TemplateError:
        return None
    for case in cases_of("chat"):
        try:
            expected, actual = source.render(case.messages), stored.render(case.messages)
        except TemplateError:
            continue
        difference = difference_of(case.name, expected, actual)
        if difference is not None:
            return difference
    return None


def _missing(checkpoint: Checkpoint, foreign: bool) -> Finding:
    return Finding(
        "template-missing",
        "warning" if foreign else "error",
        f"{checkpoint.path} has no chat template: vLLM answers every chat with an error, LMDeploy joins the "
        "messages without any marker.",
        "`portside serve` and `build` put the named one in its place." if foreign else _NAME_IT,
    )


def _broken(failure: RenderFailed, foreign: bool) -> Finding:
    code = "template-syntax" if failure.kind == "syntax" else "template-raises"
    fix = "The named template is used in its place." if foreign else _NAME_IT
    return Finding(code, "warning" if foreign else "error", failure.message, fix)


def _deaf() -> Finding:
    return Finding(
        "template-ignores-messages",
        "error",
        "The chat template does not write what the user says into the prompt.",
        _NAME_IT,
    )


def _dated() -> Finding:
    return Finding(
        "template-date",
        "info",
        "The template writes today's date into the prompt, so prompts change from day to day; LMDeploy's "
        "JSON cannot say that.",
        "For LMDeploy use `--chat-template hf`, or give the same template with a fixed date as FILE.jinja.",
    )


def _differs(stored: str, source: TemplateSource, question: JinjaRequest) -> list[Finding]:
    """Compare the stored template with the one it was trained with on plain chats."""
    cases = cases_of("chat")
    requests = [replace(question, messages=case.messages) for case in cases]
    for case, result in zip(cases, shared_worker().render_all(stored, requests), strict=True):
        try:
            trained: str | None = source.render(case.messages)
        except TemplateError:
            trained = None
        if trained is not None and result != trained:
            said = f"{result[:120]!r}" if isinstance(result, str) else "an error"
            return [_mismatch(source, case.name, trained, said)]
    return []


def _mismatch(source: TemplateSource, case: str, trained: str, said: str) -> Finding:
    return Finding(
        "template-differs",
        "warning",
        f"The checkpoint's own chat template is not the one it was trained with ({source.spec}): with {case} "
        f"the training prompt begins {trained[:120]!r}, its own gives {said}.",
        "`portside serve` and `build` use the named template; any other tool would use the checkpoint's.",
    )
