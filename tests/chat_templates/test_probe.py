"""Probing finds the form that a template was written from, and says why where there is none."""

from __future__ import annotations

import datetime
import re

import pytest
from hypothesis import given, settings

from chat_templates.conversations import cases_of
from chat_templates.dates import marked
from chat_templates.dialects.jinja import write_jinja
from chat_templates.jinja_engine import JinjaRequest, shared_worker
from chat_templates.sources.probe import depends_on_date, probe
from chat_templates.sources.toml_form import families, read_family
from chat_templates.template import ChatTemplate, Markup, Thinking
from tests.chat_templates.corpus import original, templates
from tests.chat_templates.forms import forms

_OPEN = "{% for m in messages %}"


@pytest.mark.parametrize("name", families())
def test_a_written_family_is_found_again(name: str) -> None:
    file = read_family(name)
    found = probe(write_jinja(file.form), name=name, bos_token=file.bos_token, eos_token=file.eos_token)
    assert found.form is not None, found.refusal
    for class_name in ("chat", "unicode", "repeated"):
        for case in cases_of(class_name):
            if case.messages[0]["role"] == "system" and file.form.system is None:
                continue
            if class_name == "repeated" and any(m["role"] == "system" for m in case.messages[1:]):
                continue
            assert found.form.render(case.messages) == file.form.render(case.messages), case.name
    assert (found.form.trimmed, found.form.thinking) == (file.form.trimmed, file.form.thinking)


@settings(deadline=None, max_examples=60)
@given(forms())
def test_a_form_that_is_found_is_exact_for_plain_chats(form: ChatTemplate) -> None:
    jinja = write_jinja(form)
    found = probe(jinja, name="x")
    if found.form is None:
        assert found.refusal
        return
    for case in cases_of("chat"):
        if form.system is not None or case.messages[0]["role"] != "system":
            said = shared_worker().render(jinja, JinjaRequest(case.messages))
            assert found.form.render(case.messages) == said


@pytest.mark.parametrize(
    ("jinja", "reason"),
    [
        (
            _OPEN + "{% if m.role == 'system' %}{{ '[system]' if loop.last }}{% else %}{{ m.content }};"
            "{% endif %}{% endfor %}{% if messages[0].role == 'system' %}{{ messages | length }}{% endif %}",
            "with a system message and 1 turn",
        ),
        (
            _OPEN + "{{ m.role }}:{{ m.content | upper }};{% endfor %}",
            "does not write the messages once",
        ),
        (_OPEN + "{{ loop.index }}:{{ m.content }};{% endfor %}", "later turns differently"),
        ("{{ strftime_now('%Y') | int + 1 }}" + _OPEN + "{{ m.content }};{% endfor %}", "with 1 turn"),
        (
            "{% if messages | length > 2 %}{{ raise_exception('one') }}{% endif %}{{ messages[0].content }}",
            "several turns",
        ),
        (
            _OPEN + "{{ m.role }}:{{ m.content }}{{ '!' if '{' in m.content }};{% endfor %}",
            "with quotes, braces and backslashes it writes",
        ),
    ],
)
def test_a_template_that_is_not_linear_is_refused_in_words(jinja: str, reason: str) -> None:
    found = probe(jinja, name="x")
    assert found.form is None
    assert re.search(reason, found.refusal or "")


_LAST = "{% if loop.last and s %}{{ s }}\n{% endif %}"


@pytest.mark.parametrize(
    ("jinja", "changes"),
    [
        (
            _OPEN + "{% if m.role != 'system' %}{{ m.content }};{% endif %}{% endfor %}",
            {"dropped": frozenset({"system"}), "system": Markup()},
        ),
        (
            _OPEN + "{% if m.role == 'system' %}[on]{% else %}{{ m.content }};{% endif %}{% endfor %}",
            {"dropped": frozenset({"system"}), "system": Markup("", "[on]")},
        ),
        (
            "{% set s = messages[0].content if messages[0].role == 'system' %}"
            + _OPEN
            + "{% if m.role != 'system' %}<{{ m.role }}>"
            + _LAST
            + "{{ m.content }}{% endif %}{% endfor %}",
            {"system_placement": "last_user", "system": Markup("", "\n")},
        ),
        (
            "{% if messages[0].role != 'system' %}[Be kind.]{% endif %}"
            + _OPEN
            + "{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}"
            "{% elif m.content %}[{{ m.content }}]{% endif %}{% endfor %}",
            {"default_system": "Be kind.", "empty_text": "", "system": Markup("[", "]")},
        ),
    ],
)
def test_what_templates_do_with_a_system_message_is_found(jinja: str, changes: dict[str, object]) -> None:
    found = probe(jinja, name="x").form
    assert found is not None
    assert {key: getattr(found, key) for key in changes} == changes


@pytest.mark.parametrize(
    ("name", "placement"),
    [
        ("mistralai-Mistral-7B-Instruct-v0.3", "last_user"),
        ("mistralai-Mistral-Nemo-Instruct-2407", "last_user"),
        ("mistralai-Codestral-22B-v0.1", "last_user"),
    ],
)
def test_public_templates_that_move_the_system_message(name: str, placement: str) -> None:
    found = probe(original(name), name=name, bos_token="<s>", eos_token="</s>").form
    assert found is not None
    assert found.system_placement == placement
    assert found.system == Markup("", "\n\n")


def test_a_template_that_raises_says_so() -> None:
    found = probe("{{ raise_exception('never') }}", name="x")
    assert found.broken is not None
    assert "never" in (found.refusal or "")


_PARTS = "{% for m in messages %}{{ m.role }}:{% for p in m.content %}{{ p.text }}{% endfor %};{% endfor %}"


@pytest.mark.parametrize("jinja", [_PARTS, "{{ messages[0].content[0].text.strip() and '' }}" + _PARTS])
def test_a_template_that_reads_lists_of_parts_only_is_given_such(jinja: str) -> None:
    found = probe(jinja, name="x")
    assert found.typed_content
    assert found.form is not None
    assert found.form.render([{"role": "user", "content": "a"}]) == "user:a;"


@pytest.mark.parametrize(
    "jinja", ["{{ messages }}", "{{ messages[0].content }}", "{{ messages[0].content[0] }}"]
)
def test_other_templates_are_given_plain_texts(jinja: str) -> None:
    assert not probe(jinja, name="x").typed_content


def test_dates_are_found_with_their_patterns() -> None:
    found = probe(
        "Today: {{ strftime_now('%d %b %Y') }}." + _OPEN + "<{{ m.content }}>{% endfor %}", name="x"
    )
    assert found.form is not None
    assert found.form.dated
    assert found.form.no_system == f"Today: {marked('%d %b %Y')}."
    question = [{"role": "user", "content": "a"}]
    assert found.form.render(question, now=datetime.datetime(2030, 5, 7)) == "Today: 07 May 2030.<a>"
    assert not found.form.on(datetime.datetime(2030, 5, 7)).dated


@pytest.mark.parametrize(
    "name", ["meta-llama-Llama-3.2-3B-Instruct", "openai-gpt-oss-120b", "ibm-granite-granite-3.1-8b-instruct"]
)
def test_public_templates_with_dates_have_a_form(name: str) -> None:
    found = probe(original(name), name=name, bos_token="<s>", eos_token="</s>").form
    assert found is not None
    assert found.dated


def test_dates_are_seen() -> None:
    assert depends_on_date("{{ strftime_now('%d') }}")
    assert not depends_on_date("{{ messages[0].content }}")


def test_markers_are_not_cut_in_two() -> None:
    found = probe(original("microsoft-Phi-3-mini-4k-instruct"), name="phi3", eos_token="<|endoftext|>")
    assert found.form is not None
    assert found.form.assistant.suffix == "<|end|>\n"
    assert found.form.user.prefix == "<|user|>\n"


def test_past_thoughts_are_seen_to_be_dropped() -> None:
    found = probe(original("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B@56a144"), name="r1")
    assert found.form is not None
    assert found.form.thinking == Thinking(strip_after="nothing")


def test_nearly_every_public_template_has_a_form() -> None:
    """Of the whole corpus 786: 776 answer a question, 755 of these (97 %) have a form."""
    probed = [probe(t, name=n, bos_token="<s>", eos_token="</s>") for n, t in templates().items()]
    usable = [result for result in probed if result.broken is None]
    assert len(usable) >= 0.97 * len(probed)
    assert sum(result.form is not None for result in usable) >= 0.95 * len(usable)
    assert all(result.form or result.refusal for result in probed)
