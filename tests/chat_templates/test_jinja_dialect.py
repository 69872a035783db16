"""A Jinja written from a form renders as the form does; a Jinja that was given stays as it is."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_templates import DIALECTS, DialectFacts, JinjaRequest, TemplateSource, load_source
from chat_templates.dialects.jinja import write_jinja
from chat_templates.jinja_engine import RenderFailed, shared_worker, switch
from chat_templates.sources import source_of_jinja
from chat_templates.template import ChatTemplate, Markup, Message
from errors import TemplateError
from tests.chat_templates.forms import conversations, forms

NOW = datetime.datetime(2031, 5, 7, 23, 59, 59)


@settings(deadline=None, max_examples=100)
@given(
    forms(),
    st.lists(conversations(), min_size=4, max_size=4),
    st.booleans(),
    st.sampled_from((None, True, False)),
)
def test_written_jinja_renders_as_the_form(
    form: ChatTemplate, talks: list[list[Message]], prompt: bool, thinking: bool | None
) -> None:
    requests = [
        JinjaRequest(talk, add_generation_prompt=prompt, now=NOW.isoformat(), variables={**switch(thinking)})
        for talk in talks
    ]
    for talk, said in zip(talks, shared_worker().render_all(write_jinja(form), requests), strict=True):
        assert (None if isinstance(said, RenderFailed) else said) == _by_form(form, talk, prompt, thinking)


def _by_form(form: ChatTemplate, talk: list[Message], prompt: bool, thinking: bool | None) -> str | None:
    try:
        return form.render(talk, add_generation_prompt=prompt, now=NOW, thinking=thinking)
    except TemplateError:
        return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("keep_newline", [True, False])
def test_written_jinja_does_not_depend_on_the_engines_white_space_settings(keep_newline: bool) -> None:
    import jinja2

    form = ChatTemplate("x", Markup("U\n", "\n"), Markup("A\n", "\n"), "A\n\n", system=Markup("S\n", "\n"))
    plain = jinja2.Environment(keep_trailing_newline=keep_newline)
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    rendered = plain.from_string(write_jinja(form)).render(messages=messages, add_generation_prompt=True)
    assert rendered == form.render(messages) == "S\ns\nU\nu\nA\n\n"


def test_a_final_newline_survives() -> None:
    source = load_source("family:alpaca", None)
    assert source.form is not None
    prompt = shared_worker().render(source.jinja, JinjaRequest([{"role": "user", "content": "Hi"}]))
    assert prompt.endswith("### Response:\n")


def test_a_jinja_source_is_written_byte_for_byte() -> None:
    jinja = "{% for m in messages %}\r\n {{ m.content }}{% endfor %}  \n\n"
    source = source_of_jinja("x.jinja", "x", jinja, None, "x")
    assert DIALECTS["jinja"].write(source, None, DialectFacts()) == jinja


def test_a_comment_cannot_be_ended_by_a_name() -> None:
    form = ChatTemplate("evil -#} {{ 1/0 }}", Markup(), Markup(), "")
    assert shared_worker().render(write_jinja(form), JinjaRequest([{"role": "user", "content": "a"}])) == "a"


def test_what_a_form_refuses_its_jinja_refuses_in_words() -> None:
    source: TemplateSource = load_source("family:gemma", None)
    with pytest.raises(TemplateError, match="no place here for the role system"):
        DIALECTS["jinja"].render(source.jinja, [{"role": "system", "content": "a"}], DialectFacts())
