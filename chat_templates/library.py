"""The library of families: what is in it, and which family a template is, found by rendering.

Knows the bundled families and the suite of conversations. Does not look at names or at the text of a
template: two templates are the same when they say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chat_templates.conversations import Case
from chat_templates.proof_results import Difference, difference_of
from chat_templates.sources.llamafactory import llamafactory_names
from chat_templates.sources.source import TemplateSource
from chat_templates.sources.toml_form import Tokens, families, family_aliases, read_family
from chat_templates.sources.xtuner import xtuner_names
from chat_templates.suite import SuiteClass, measured_suite
from chat_templates.template import ChatTemplate
from errors import TemplateError

__all__ = ["Family", "FamilyMatch", "Matches", "library", "match_families", "trainer_templates"]


@dataclass(frozen=True)
class Family:
    """One chat template that Portside brings with it."""

    name: str
    aliases: tuple[str, ...]
    """Other names that `family:NAME` takes for it."""
    description: str
    stop: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "description": self.description,
            "stop": list(self.stop),
        }


def library() -> tuple[Family, ...]:
    """Return the bundled families in the order of their names."""
    return tuple(_family(name) for name in families())


def trainer_templates() -> Mapping[str, tuple[str, ...]]:
    """Return the names of the trainers' own templates, by what --template has in front of them."""
    return {"xtuner": xtuner_names(), "llamafactory": llamafactory_names()}


def _family(name: str) -> Family:
    file = read_family(name)
    aliases = tuple(alias for alias, family in family_aliases().items() if family == name)
    return Family(name, aliases, file.description, file.form.stop)


@dataclass(frozen=True)
class FamilyMatch:
    """How near one family comes to a template."""

    family: Family
    same: int
    """Plain conversations with the very same prompt."""
    of: int
    """Plain conversations compared."""
    differing: tuple[str, ...]
    """Classes of the suite in which at least one prompt differs, `chat` first."""
    difference: Difference | None
    """The first plain conversation that differs."""

    @property
    def equal(self) -> bool:
        """Whether all plain conversations are the same."""
        return self.of > 0 and self.same == self.of

    def as_json(self) -> dict[str, Any]:
        return {
            **self.family.as_json(),
            "equal": self.equal,
            "same": self.same,
            "of": self.of,
            "differing": list(self.differing),
            "difference": self.difference.as_json() if self.difference else None,
        }


@dataclass(frozen=True)
class Matches:
    """The families that a template is; where there is none, the nearest."""

    source: TemplateSource
    equal: tuple[FamilyMatch, ...]
    """Those with the fewest differing classes first."""
    nearest: FamilyMatch | None

    def as_json(self) -> dict[str, Any]:
        return {
            "source": {"spec": self.source.spec, "description": self.source.description},
            "matches": [match.as_json() for match in self.equal],
            "nearest": self.nearest.as_json() if self.nearest else None,
        }


def match_families(source: TemplateSource) -> Matches:
    """Return the families whose prompts are those of `source` in every plain conversation.

    A family is read with the BOS and EOS of `source`, so that only the texts of its own are compared. A
    conversation that `source` refuses asks nothing.
    """
    suite = measured_suite(source)
    tokens = (source.bos_token, source.eos_token)
    found = [match for name in families() if (match := _match(name, tokens, suite)) is not None]
    equal = sorted((match for match in found if match.equal), key=lambda match: len(match.differing))
    nearest = max(found, key=lambda match: match.same, default=None)
    if equal or nearest is None or not nearest.same:
        return Matches(source, tuple(equal), None)
    return Matches(source, (), nearest)


def _match(name: str, tokens: Tokens, suite: Sequence[SuiteClass]) -> FamilyMatch | None:
    """Compare one family; None for one that cannot be said with these tokens."""
    try:
        form = read_family(name, tokens).form
    except TemplateError:
        return None  # it ends its answers with EOS, and the tokenizer has none
    wrong: Mapping[str, list[Difference]] = {
        part.name: [d for d in _differences(form, part) if d is not None] for part in suite
    }
    plain = next(part for part in suite if part.name == "chat")
    return FamilyMatch(
        _family(name),
        same=len(plain.truths) - len(wrong["chat"]),
        of=len(plain.truths),
        differing=tuple(key for key, differences in wrong.items() if differences),
        difference=next(iter(wrong["chat"]), None),
    )


def _differences(form: ChatTemplate, part: SuiteClass) -> list[Difference | None]:
    return [difference_of(case.name, expected, _rendered(form, case)) for case, expected in part.truths]


def _rendered(form: ChatTemplate, case: Case) -> str:
    """Return the family's prompt; nothing for a conversation that it refuses."""
    try:
        return form.render(
            case.messages,
            add_generation_prompt=case.add_generation_prompt,
            continue_final_message=case.continue_final_message,
            thinking=case.thinking,
        )
    except TemplateError:
        return ""
