"""LMDeploy's JSON: written from forms, rendered by us and by LMDeploy's own class."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat_templates import DIALECTS, facts_of
from chat_templates.conversations import Case, cases_of
from chat_templates.dialects.base import DialectFacts, DialectRefused
from chat_templates.dialects.lmdeploy import LmdeployDialect, limits
from chat_templates.sources import source_of_jinja
from chat_templates.sources.source import TemplateSource
from chat_templates.stops import Stops
from chat_templates.template import ChatTemplate, Markup, Thinking
from errors import TemplateError
from tests.chat_templates.corpus import templates
from tests.chat_templates.lmdeploy_oracle.oracle import lmdeploy_render

DIALECT = LmdeployDialect()
FACTS = DialectFacts(bos_token="<s>", adds_bos=True, name="qwen-ft")
NO_BOS = DialectFacts(name="qwen-ft")
CHATML = ChatTemplate(
    name="chatml",
    user=Markup("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=Markup("<|im_start|>assistant\n", "<|im_end|>"),
    system=Markup("<|im_start|>system\n", "<|im_end|>\n"),
    generation_prompt="<|im_start|>assistant\n",
    separator="\n",
    default_system="You are helpful.",
    stop=("<|im_end|>", "two tokens"),
)


def form(**changes: Any) -> ChatTemplate:
    return ChatTemplate(**{**CHATML.__dict__, **changes})


def write(template: ChatTemplate, facts: DialectFacts = NO_BOS, stops: Stops | None = None) -> str:
    return DIALECT.write(TemplateSource("family:t", "a test", "form", "", template), stops, facts)


texts = st.text(st.sampled_from('aé {}"\n\t\u3000<|>\\😀'), max_size=6)
fields = st.fixed_dictionaries(
    {"model_name": st.just("portside-test")},
    optional={
        key: texts | st.none()
        for key in (
            *("system", "meta_instruction", "eosys", "user", "eoh", "assistant"),
            *("eoa", "separator", "tool", "eotool"),
        )
    },
)
any_messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": texts}
    ),
    max_size=5,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lmdeploy") / "template.json"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=fields, messages=any_messages)
def test_renders_like_lmdeploys_own_class(file: Path, values: dict[str, Any], messages: list[Any]) -> None:
    file.write_text(json.dumps(values), "utf-8")
    last = bool(messages) and messages[-1]["role"] == "assistant"
    ours = DIALECT.render(json.dumps(values), messages, NO_BOS, continue_final_message=last)
    assert ours == lmdeploy_render(file, messages)


def alternating(turns: list[str]) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


markups = st.builds(Markup, texts, texts)


@st.composite
def sayable_forms(draw: st.DrawFn) -> ChatTemplate:
    assistant, system = draw(markups), draw(st.none() | markups)
    meta = draw(texts)
    no_system = f"{system.prefix}{meta}{system.suffix}" if system else meta
    return ChatTemplate(
        name="any",
        user=draw(markups),
        assistant=assistant,
        generation_prompt=assistant.prefix,
        system=system,
        bos=draw(st.sampled_from(["<s>", "<s>\n"])),
        system_placement=draw(st.sampled_from(["own_turn", "first_user"])),
        default_system=draw(st.none() | texts),
        no_system=no_system,
        separator=draw(texts),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    template=sayable_forms(),
    turns=st.lists(texts, min_size=1, max_size=4),
    system=st.none() | texts,
    adds_bos=st.booleans(),
)
def test_says_what_the_form_says(
    file: Path, template: ChatTemplate, turns: list[str], system: str | None, adds_bos: bool
) -> None:
    facts = DialectFacts("<s>", adds_bos=adds_bos)
    messages = alternating(turns)
    if system is not None and template.system is not None:
        messages = [{"role": "system", "content": system}, *messages]
    last = messages[-1]["role"] == "assistant"
    text = write(template, facts)
    file.write_text(text, "utf-8")
    wanted = template.render(messages, add_generation_prompt=not last, continue_final_message=last)
    assert DIALECT.render(text, messages, facts, continue_final_message=last) == wanted
    assert ("<s>" if adds_bos else "") + lmdeploy_render(file, messages) == wanted


def test_the_file() -> None:
    stops = Stops(strings=("<|im_end|>", "two tokens"), ids=(2,), multi_token=("two tokens",))
    written = json.loads(write(CHATML, NO_BOS, stops))
    assert written.pop("model_name").startswith("portside-qwen-ft-")
    assert written == {
        "system": "<|im_start|>system\n",
        "meta_instruction": "You are helpful.",
        "eosys": "<|im_end|>\n",
        "user": "<|im_start|>user\n",
        "eoh": "<|im_end|>\n",
        "assistant": "<|im_start|>assistant\n",
        "eoa": "<|im_end|>",
        "separator": "\n",
        "capability": "chat",
        "stop_words": ["<|im_end|>"],
    }


def test_names_differ_with_the_content() -> None:
    assert json.loads(write(CHATML))["model_name"] != json.loads(write(form(separator="")))["model_name"]


@pytest.mark.parametrize(
    ("template", "facts", "why"),
    [
        (form(default_system=None), NO_BOS, "cannot leave out the system block"),
        (form(generation_prompt="<|im_start|>assistant\n<think>\n"), NO_BOS, "begin with different texts"),
        (CHATML, FACTS, "puts <s> in front"),
        (form(default_system=None, system_placement="first_user"), NO_BOS, "system block"),
    ],
)
def test_refuses_with_the_reason_and_the_way_out(
    template: ChatTemplate, facts: DialectFacts, why: str
) -> None:
    with pytest.raises(DialectRefused, match=why) as refused:
        write(template, facts)
    assert "--chat-template hf" in str(refused.value)


def test_refuses_what_has_no_form() -> None:
    source = TemplateSource("x.jinja", "a test", "jinja", "", None, "too clever")
    with pytest.raises(DialectRefused, match="too clever"):
        DIALECT.write(source, None, NO_BOS)


def test_limits_name_the_classes() -> None:
    assert set(limits(CHATML)) == {"tools"}
    demanding = form(trimmed=frozenset({"user"}), thinking=Thinking(), system_placement="first_user")
    assert set(limits(demanding)) == {"tools", "unicode", "thinking", "repeated"}


def test_wishes_lmdeploy_has_no_request_for() -> None:
    text = write(CHATML)
    user = [{"role": "user", "content": "u"}]
    with pytest.raises(DialectRefused, match="continues"):
        DIALECT.render(text, user, NO_BOS, continue_final_message=True)
    with pytest.raises(DialectRefused, match="always asks"):
        DIALECT.render(text, user, NO_BOS, add_generation_prompt=False)
    with pytest.raises(DialectRefused, match="tools"):
        DIALECT.render(text, user, NO_BOS, tools=[{}])


@pytest.mark.parametrize(
    ("text", "messages", "why"),
    [
        ("{", [], "not JSON"),
        ("[]", [], "not a JSON object"),
        ('{"sytem": ""}', [], "sytem"),
        ('{"user": 1}', [], "user"),
        ("{}", [{"role": "developer", "content": ""}], "developer"),
        ("{}", [{"role": "user", "content": [{"type": "image_url"}]}], "not a text"),
    ],
)
def test_bad_input(text: str, messages: list[Any], why: str) -> None:
    with pytest.raises(TemplateError, match=why):
        DIALECT.render(text, messages, NO_BOS)


def test_a_list_of_parts_means_its_first() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert DIALECT.render("{}", [{"role": "user", "content": parts}], NO_BOS) == "one"


@pytest.mark.engines
def test_no_other_json_would_say_what_is_refused() -> None:
    """For every template refused for plain chats, other places of its texts among the fields are tried."""
    found = []
    for name, jinja in templates().items():
        try:
            source = source_of_jinja(name, "a public template", jinja, ("<s>", "</s>"), name)
        except TemplateError:
            continue
        form, facts = source.form, facts_of(source, None)
        if form is None or "chat" not in limits(form, facts):
            continue
        cases = [(case, source.render(case.messages)) for case in cases_of("chat") if _accepts(source, case)]
        if any(_says(text, cases, facts) for text in _other_fields(form)):
            found.append(name)
    assert not found


def _accepts(source: TemplateSource, case: Case) -> bool:
    try:
        return bool(source.render(case.messages))
    except TemplateError:
        return False


def _says(text: str, cases: list[tuple[Case, str]], facts: DialectFacts) -> bool:
    return bool(cases) and all(
        DIALECTS["lmdeploy"].render(text, case.messages, facts) == truth for case, truth in cases
    )


def _other_fields(form: ChatTemplate) -> Iterator[str]:
    prefix, suffix = (form.system.prefix, form.system.suffix) if form.system else ("", "")
    asked = form.user.prefix
    places = (
        {form.bos, form.bos + prefix, form.bos + form.missing_system, form.bos + asked + prefix},
        {"", form.missing_system, form.default_system or ""},
        {"", suffix},
        {"", asked, form.separator + asked, asked + form.last_question},
        {form.generation_prompt, form.assistant.prefix},
        {"", form.separator, form.separator + asked},
    )
    names = ("system", "meta_instruction", "eosys", "user", "assistant", "separator")
    for texts in itertools.product(*places):
        fields = dict(zip(names, texts, strict=True))
        yield json.dumps({**fields, "eoh": form.user.suffix, "eoa": form.assistant.suffix})
