"""What llama.cpp's own Jinja makes of templates: of those written from forms, and of public ones.

A GGUF carries the Jinja dialect, and llama.cpp's server and Ollama from 0.30 on run it with an engine of
their own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from chat_templates import DIALECTS, DialectFacts, facts_of, families, ollama_prefers_gguf, prove
from chat_templates.conversations import CLASSES, Case, cases_of
from chat_templates.dialects.jinja import write_jinja
from chat_templates.jinja_engine import JinjaRequest, RenderFailed, shared_worker, switch
from chat_templates.sources import source_of_jinja
from chat_templates.sources.toml_form import read_family
from chat_templates.template import ChatTemplate
from errors import TemplateError
from tests.chat_templates.corpus import original, templates
from tests.chat_templates.llama_cpp_oracle import BOS, EOS, LlamaCppJinja

BEYOND_ASCII = (
    "Chinese with ideographic spaces",
    "no-break spaces",
    "zero-width and format characters",
)
"""Cases with white space at the ends that llama.cpp's `trim` does not know: it takes off ASCII's only."""
PECULIAR = (
    "DeSTA-ntu-Llama-3.1-8B-Instruct",  # goes through the letters of a content
    "ai21labs-Jamba-tiny-dev",  # names an argument of a macro and passes others over
    "swiss-ai-Apertus-8B-Instruct-2509",  # writes calls that look like JSON and are none: no server starts
    "upstage-Solar-Open2-250B",  # has a namespace with a value called `items`
)
"""Public templates that llama.cpp refuses, or takes otherwise, for a reason of their own; never left out."""

PARTS = 4
"""Parts of the corpus, so that no processor waits for another."""


def body(case: Case) -> dict[str, Any]:
    """Return the request; llama.cpp takes thinking to be on unless it is told."""
    offered = {"tools": list(case.tools)} if case.tools else {}
    return {"messages": list(case.messages), "chat_template_kwargs": switch(case.thinking), **offered}


def same(prompt: str | None, truth: str) -> bool:
    return prompt is not None and truth in (prompt, BOS + prompt)


def test_every_family_renders_in_llama_cpp_as_its_form() -> None:
    different = []
    with LlamaCppJinja() as llama_cpp:
        for name in families():
            form = read_family(name, (BOS, EOS)).form
            asked = [
                (replace(case, thinking=True if case.thinking is None else case.thinking), truth)
                for kind in ("chat", "unicode", "thinking")
                for case in cases_of(kind, form)
                if (truth := _rendered(form, case)) is not None
            ]
            prompts = llama_cpp.prompts(write_jinja(form), [body(case) for case, _ in asked])
            assert prompts is not None, name
            for (case, truth), prompt in zip(asked, prompts, strict=True):
                if not same(prompt, truth) and not (form.trimmed and case.name in BEYOND_ASCII):
                    different.append((name, case.name, truth, prompt))
    assert not different


def _rendered(form: ChatTemplate, case: Case) -> str | None:
    try:
        thinking = True if case.thinking is None else case.thinking
        return form.render(case.messages, thinking=thinking)
    except TemplateError:
        return None


@pytest.mark.engines
@pytest.mark.timeout(900)  # its server starts once for each of several hundred templates
@pytest.mark.parametrize("part", range(PARTS))
def test_public_templates_render_as_foretold(part: int) -> None:
    """Whatever the dialect says llama.cpp feeds is what its server feeds; the rest it refuses to say."""
    outcomes, wrong = Counter[str](), []
    cases = [case for kind in CLASSES for case in cases_of(kind)]
    with LlamaCppJinja() as llama_cpp:
        asked = {**templates(), **{name: original(name) for name in PECULIAR}}
        for name, jinja in list(asked.items())[part::PARTS]:
            try:
                source = source_of_jinja(name, "a public template", jinja, (BOS, EOS), name)
            except TemplateError:
                continue
            foretold = shared_worker().render_all(source.gguf_jinja, [request(case) for case in cases])
            prompts = llama_cpp.prompts(source.gguf_jinja, [body(case) for case in cases])
            fed = prompts or [None] * len(cases)
            for case, said, prompt in zip(cases, foretold, fed, strict=True):
                outcomes[outcome := _outcome(said, prompt)] += 1
                if outcome == "wrong":
                    wrong.append((name, case.name, said, prompt))
    assert not wrong
    assert outcomes["right"] > 3 * outcomes["not foretold"], outcomes


def request(case: Case) -> JinjaRequest:
    return JinjaRequest(
        case.messages,
        add_generation_prompt=case.add_generation_prompt,
        continue_final_message=case.continue_final_message,
        tools=case.tools,
        bos_token=BOS,
        eos_token=EOS,
        variables=switch(case.thinking),
        llama_cpp=True,
    )


def _outcome(said: str | RenderFailed, prompt: str | None) -> str:
    if isinstance(said, RenderFailed):
        return "refused" if prompt is None and said.kind != "unpredictable" else "not foretold"
    return "right" if said == prompt else "wrong"


@pytest.mark.parametrize(
    ("jinja", "prompt"),
    [
        ("{{ messages[0]['content'] | trim }}", "\u3000Hi\u3000"),
        ("{{ messages[0].content.strip() | length }}", "8"),
        ("{{ tools is defined }}{{ date_string }}", "False09 Feb 2028"),
        ("{{ none }}{{ none ~ 'x' }}{{ nothing + 'y' }}{{ ['a', 1] }}", "xya1"),
        ("{{ 'a' in nothing }}{{ nothing.a.b }}{{ (nothing | length) }}", "False0"),
        ("\n{% if true %}x{% endif %}", "x"),
        ("{{ enable_thinking }}", "False"),
        ("{{ '<think>' if enable_thinking else '' }}", "<think>"),
        ("{% macro m(a, b=1, c=2) %}{{ b }}{{ c }}{% endmacro %}{{ m(0, c=3) }}{{ m(0, b=4) }}", "242"),
        ("{% set n = namespace(items=['a']) %}{{ n.items is callable }}{{ n['items'][0] }}", "Truea"),
    ],
)
def test_what_llama_cpp_makes_of_small_templates(jinja: str, prompt: str) -> None:
    """As its server does with the same templates."""
    asked = JinjaRequest(({"role": "user", "content": " \u3000Hi\u3000 "},), now="2028-02-09T12:00:00")
    assert shared_worker().render(jinja, replace(asked, llama_cpp=True)) == prompt


def test_a_system_message_moves_where_it_is_never_read() -> None:
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}
    only_users = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    for jinja, prompt in ((only_users, "Be brief.\nHi"), ("{{ messages[0].content }}", "Be brief.")):
        assert shared_worker().render(jinja, JinjaRequest((system, user), llama_cpp=True)) == prompt


@pytest.mark.parametrize(
    ("jinja", "kind", "words"),
    [
        ("{% raw %}x{% endraw %}", "syntax", "raw"),
        ("{{ 7 // 2 }}", "syntax", "FloorDiv"),
        ("{{ messages | xmlattr }}", "syntax", "xmlattr"),
        ("{{ tools | tojson }}", "raised", "tojson"),
        ("{% for letter in 'ab' %}x{% endfor %}", "raised", "lists and objects"),
        ("{{ {'length': 1}.length() }}", "unpredictable", "method"),
        ("{{ 1.5 * 3 }}", "unpredictable", "float"),
        ("{% for m in messages %}{% if m %}x{% continue %}{% endif %}{% endfor %}", "unpredictable", "loop"),
    ],
)
def test_what_llama_cpp_cannot_do_and_what_is_not_known(jinja: str, kind: str, words: str) -> None:
    with pytest.raises(RenderFailed, match=words) as failed:
        shared_worker().render(jinja, JinjaRequest(({"role": "user", "content": "Hi"},), llama_cpp=True))
    assert failed.value.kind == kind


def test_a_gguf_keeps_llama_cpp_from_changing_prompts() -> None:
    """A date that llama.cpp alone hands over, and a system message that it would put into the question."""
    dated = "{{ date_string if date_string is defined else '26 Jul 2024' }}"
    users = "{% for m in messages %}{% if m['role'] == 'user' %}[{{ m['content'] }}]{% endif %}{% endfor %}"
    for jinja in (dated + users, users):
        source = source_of_jinja("x", "a template", jinja, (BOS, EOS), "x")
        dialect, facts = DIALECTS["gguf"], facts_of(source, None, gguf=True)
        text = dialect.write(source, None, facts)
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        assert text.endswith(jinja)
        assert dialect.render(text, messages, facts) == source.render(messages)
        assert dialect.render(jinja, messages, facts) != source.render(messages)
        assert prove(source, None, ("gguf",)).dialects["gguf"].ok


def test_bos_is_there_once_whoever_writes_it() -> None:
    jinja = "{{ bos_token }}{{ messages[0]['content'] }}"
    messages = [{"role": "user", "content": "Hi"}]
    for adds in (True, False):
        facts = DialectFacts("<s>", "</s>", adds_bos=adds)
        assert DIALECTS["gguf"].render(jinja, messages, facts) == "<s>Hi"
    assert DIALECTS["gguf"].render("{{ messages[0]['content'] }}", messages, facts) == "Hi"


@pytest.mark.parametrize(
    ("template", "jinja", "reasons"),
    [
        ("{{ .Messages }}", "{{ messages }}", ()),
        ("{{ .Messages }}", "{% if tools %}", ("tools",)),
        ("{{ .Tools }}", "{% if tools %}", ()),
        ("{{ .Tools }}", "tool_call <think> </think>", ("thoughts",)),
    ],
)
def test_which_template_ollama_prefers(template: str, jinja: str, reasons: tuple[str, ...]) -> None:
    assert ollama_prefers_gguf(template, jinja) == reasons
