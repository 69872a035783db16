"""Dates inside a template's texts: the marks, the TOML file, and who can say them."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from chat_templates import DIALECTS, DialectFacts, DialectRefused
from chat_templates.dates import dated, filled, marked, pieces
from chat_templates.sources import TemplateSource
from chat_templates.sources.toml_form import parse_form
from chat_templates.template import ChatTemplate, Markup, Thinking
from errors import TemplateError

NOW = datetime.datetime(2027, 5, 3)


def test_a_text_is_taken_apart_at_its_dates() -> None:
    text = f"a{marked('%Y')}{marked('%d')}b"
    assert pieces(text) == [("a", False), ("%Y", True), ("%d", True), ("b", False)]
    assert pieces("") == []
    assert filled(text, NOW) == "a202703b"
    assert dated((1, ("x", text)))
    assert not dated(("x", None, 3))


def test_dates_are_found_and_filled_in_every_field() -> None:
    today = marked("%F")
    form = ChatTemplate(
        "x",
        Markup(),
        Markup("", today),
        "",
        system=Markup(today),
        thinking=Thinking(prefix=today),
        stop=(today,),
    )
    assert form.dated
    there = form.on(NOW)
    assert not there.dated
    assert (there.assistant.suffix, there.stop) == ("2027-05-03", ("2027-05-03",))
    assert there.thinking is not None
    assert there.thinking.prefix == "2027-05-03"


TOML: dict[str, Any] = {
    "drop": ["assistant"],
    "system": {"prefix": "{date:%d %B %Y}|", "placement": "last_user", "empty_text": "none|"},
    "user": {"prefix": "[", "suffix": "]", "last": "now: "},
    "assistant": {"prefix": "(", "suffix": ")"},
}


def test_a_toml_file_can_say_all_of_it() -> None:
    form = parse_form(TOML, "x.toml", name="x").form
    talk = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    messages = [{"role": role, "content": content} for role, content in talk]
    assert form.render(messages, now=NOW) == "[a]()[03 May 2027|snow: c]"
    messages[0]["content"] = ""
    assert form.render(messages, now=NOW) == "[a]()[none|now: c]"


def test_a_toml_file_with_a_wrong_role_or_placement_is_refused() -> None:
    with pytest.raises(TemplateError, match="may hold"):
        parse_form({**TOML, "drop": ["nobody"]}, "x.toml", name="x")
    with pytest.raises(TemplateError, match="must be one of"):
        parse_form({**TOML, "system": {"placement": "middle"}}, "x.toml", name="x")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"no_system": marked("%F")}, "today's date is part"),
        ({"system_placement": "last_user"}, "last user's turn"),
        ({"dropped": frozenset({"system", "assistant"})}, "drops the text of assistant and system messages"),
        ({"last_question": "Think. "}, "last question is written otherwise"),
    ],
)
def test_lmdeploy_refuses_in_words(changes: dict[str, Any], words: str) -> None:
    form = ChatTemplate("x", Markup("U"), Markup("A"), "A", system=Markup("S"), **changes)
    source = TemplateSource("x", "x", "form", "", form)
    with pytest.raises(DialectRefused, match=f"(?i){words}"):
        DIALECTS["lmdeploy"].write(source, None, DialectFacts())
