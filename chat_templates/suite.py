"""The suite with the training prompts of one source: what everything else is compared with.

Knows when a class has nothing to prove: the source refuses it, or does nothing with what it is about. Knows
no dialect.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from chat_templates.conversations import CLASSES, Case, cases_of
from chat_templates.sources.source import TemplateSource
from errors import TemplateError

__all__ = ["SuiteClass", "measured_suite"]


def measured_suite(source: TemplateSource) -> tuple[SuiteClass, ...]:
    """Return every class of the suite with the training prompts of `source`."""
    return tuple(SuiteClass.measured(name, source) for name in CLASSES)


@dataclass(frozen=True)
class SuiteClass:
    """One class of the suite with the training prompts; `absent` says why there is nothing to prove."""

    name: str
    truths: tuple[tuple[Case, str], ...]
    absent: str | None

    @classmethod
    def measured(cls, name: str, source: TemplateSource) -> SuiteClass:
        cases = cases_of(name, source.form)
        truths = tuple((case, text) for case in cases if (text := _truth(source, case)) is not None)
        if not truths:
            return cls(name, (), "the training template itself refuses every conversation of this class")
        if name == "tools" and not any(_uses_tools(source, case, text) for case, text in truths):
            return cls(name, (), "the training template does nothing with tools")
        if name == "thinking" and not any(_uses_thinking(source, case, text) for case, text in truths):
            return cls(name, (), "the training template treats thoughts like any other text")
        return cls(name, truths, None)


def _truth(source: TemplateSource, case: Case) -> str | None:
    """Return the training prompt; None where the training template refuses the conversation."""
    try:
        return source.render(
            case.messages,
            add_generation_prompt=case.add_generation_prompt,
            continue_final_message=case.continue_final_message,
            tools=case.tools,
            thinking=case.thinking,
        )
    except TemplateError:
        return None


def _uses_tools(source: TemplateSource, case: Case, text: str) -> bool:
    return case.tools is not None and _truth(source, replace(case, tools=None)) != text


def _uses_thinking(source: TemplateSource, case: Case, text: str) -> bool:
    """Whether the switch does something, or thoughts are treated otherwise than plain text in their place."""
    if case.thinking is not None and _truth(source, replace(case, thinking=None)) != text:
        return True
    originals: dict[str, str] = {}
    plain = []
    for index, message in enumerate(case.messages):
        content = message["content"]
        if "think>" in content:
            originals[f"PLACE{index}P"] = content
            content = f"PLACE{index}P"
        plain.append({"role": message["role"], "content": content})
    rendered = _truth(source, replace(case, messages=tuple(plain)))
    for place, content in originals.items():
        rendered = rendered.replace(place, content) if rendered is not None else None
    return rendered != text
