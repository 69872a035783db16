"""A proof and its differences for people: a table, and two prompts one above the other. Also the library.

Knows rich and how to make white space and control characters visible. Measures nothing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chat_templates.conversations import CLASSES
from chat_templates.library import Family, FamilyMatch, Matches
from chat_templates.proof_results import ClassResult, Difference, Proof

__all__ = ["print_difference", "print_families", "print_matches", "print_proof", "print_trainers", "visible"]

_STYLES = {"exact": "green", "refused": "red", "absent": "dim"}
_SYMBOLS = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "·"}
_BEFORE, _AFTER = 40, 80
"""Characters shown on either side of the first difference."""


def print_proof(proof: Proof, console: Console) -> None:
    """Print a table of dialects by classes, then the reasons, each with its first difference."""
    console.print(_table(proof))
    for name, dialect in proof.dialects.items():
        if dialect.refusal is not None:
            console.print(Text.assemble((f"{name}: ", "bold"), dialect.refusal))
            continue
        for class_name, result in dialect.classes.items():
            if result.status == "refused":
                _print_refusal(f"{name}, {class_name}: ", result, console)
    _print_stops(proof, console)


def print_families(families: Sequence[Family], console: Console) -> None:
    """Print the library: name and aliases, what for, what ends an answer."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("family", overflow="fold")
    table.add_column("what for", overflow="fold")
    table.add_column("stops on", overflow="fold")
    for family in families:
        names = Text.assemble((family.name, "bold"), *(("\n" + alias, "dim") for alias in family.aliases))
        stops = " ".join(visible(text) for text in family.stop)
        table.add_row(names, Text(family.description), Text(stops))
    console.print(table)


def print_trainers(templates: Mapping[str, Sequence[str]], console: Console) -> None:
    """Print what the trainers call their templates, a paragraph for each trainer."""
    for trainer, names in templates.items():
        console.print()
        console.print(Text.assemble((f"{trainer}:", "bold"), f"NAME with one of {', '.join(names)}"))


def print_matches(matches: Matches, console: Console) -> None:
    """Print which families a template is, or how the nearest one differs."""
    console.print(Text(f"{matches.source.description[:1].upper()}{matches.source.description[1:]}"))
    for match in matches.equal:
        console.print(Text.assemble(("is ", "green"), (_names(match), "bold"), f": {_beyond_chat(match)}"))
    nearest = matches.nearest
    if not matches.equal:
        console.print(Text("No family says the same in every plain conversation."))
    if nearest is not None and nearest.difference is not None:
        near = f": the same in {nearest.same} of {nearest.of} plain conversations, not with "
        line = Text.assemble("The nearest is ", (_names(nearest), "bold"), near, nearest.difference.case)
        console.print(line)
        print_difference(nearest.difference, console, ("yours", nearest.family.name))


def _names(match: FamilyMatch) -> str:
    aliases = f" ({', '.join(match.family.aliases)})" if match.family.aliases else ""
    return f"family:{match.family.name}{aliases}"


def _beyond_chat(match: FamilyMatch) -> str:
    if not match.differing:
        return "the same prompt in every class of conversations"
    return f"the same prompt in plain chats; other prompts in {', '.join(match.differing)}"


def print_difference(
    difference: Difference, console: Console, labels: tuple[str, str] = ("training", "dialect")
) -> None:
    """Print the two prompts around their first difference, one above the other, with a mark below."""
    width = max(8, *map(len, labels))
    start = max(0, difference.index - _BEFORE)
    same = visible(difference.expected[start : difference.index])
    lead = "…" if start else ""
    for label, text in zip(labels, (difference.expected, difference.actual), strict=True):
        rest = visible(text[difference.index : difference.index + _AFTER]) or "∎"
        line = Text.assemble(
            (f"  {label:>{width}} ", "dim"), lead, same, (rest[:1], "bold reverse"), rest[1:]
        )
        console.print(line, no_wrap=True, overflow="ellipsis", crop=True)


def visible(text: str) -> str:
    """Return `text` with white space and characters nobody can see written as symbols or as U+XXXX."""
    return "".join(_symbol(character) for character in text)


def _symbol(character: str) -> str:
    if character in _SYMBOLS:
        return _SYMBOLS[character]
    if unicodedata.category(character)[0] in "CZ":
        return f"<U+{ord(character):04X}>"
    return character


def _table(proof: Proof) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("dialect")
    for name in CLASSES:
        table.add_column(name)
    for name, dialect in proof.dialects.items():
        cells = [Text(r.status, style=_STYLES[r.status]) for r in dialect.classes.values()]
        table.add_row(Text(name, style="bold"), *cells)
    return table


def _print_refusal(label: str, result: ClassResult, console: Console) -> None:
    console.print(Text.assemble((label, "bold"), result.reason or "refused"))
    if result.difference is not None:
        print_difference(result.difference, console)


def _print_stops(proof: Proof, console: Console) -> None:
    if proof.stops is None:
        return
    texts = ", ".join(visible(text) for text in proof.stops.strings) or "nothing"
    ids = ", ".join(str(number) for number in proof.stops.ids)
    console.print(Text.assemble(("stops on: ", "bold"), f"{texts} ({ids})"))
