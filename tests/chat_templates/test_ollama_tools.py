"""Tools in the Ollama dialect: public templates against their own Jinja, by our interpreter and by Go."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_templates import prove
from chat_templates.conversations import Case, cases_of
from chat_templates.dialects.base import DialectFacts
from chat_templates.dialects.gotemplate import GoTemplate
from chat_templates.dialects.jinja import write_jinja
from chat_templates.dialects.ollama import OllamaDialect, collate
from chat_templates.dialects.ollama_thinking import marks_in
from chat_templates.dialects.ollama_tools import definitions
from chat_templates.dialects.ollama_values import tool_value
from chat_templates.jinja_engine import JinjaRequest, RenderFailed, shared_worker, switch
from chat_templates.sources import source_of_jinja
from chat_templates.sources.source import TemplateSource
from chat_templates.tools import JsonStyle, write_json
from errors import TemplateError
from tests.chat_templates.corpus import original
from tests.chat_templates.go_oracle.oracle import go_oracle

DIALECT = OllamaDialect()
NO_BOS = DialectFacts()
STYLES = (
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "Qwen-Qwen3-4B-Instruct-2507",
    "meta-llama-Llama-3.1-8B-Instruct",
    "NousResearch-Hermes-4-14B",
)

AWKWARD = {
    "type": "function",
    "function": {
        "name": "search",
        "description": 'Find "things" <here> & there:\n\tUmlauts äöü, \u2028 and 🏔, back\\slash.',
        "parameters": {
            "type": "object",
            "properties": {
                "depth": {"type": "integer", "description": "How deep, 1 < n"},
                "words": {"type": "array", "items": {"type": "string"}, "description": "{a: [b, c]}"},
            },
            "required": ["words", "depth"],
        },
    },
}
PLAIN = {
    "type": "function",
    "function": {
        "name": "now",
        "description": "The time.",
        "parameters": {"type": "object", "properties": {}},
    },
}


def _calls(*arguments: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"id": f"call0000{i}", "type": "function", "function": {"name": "search", "arguments": given}}
        for i, given in enumerate(arguments)
    ]


def _talk(calls: list[dict[str, Any]], content: str, *results: str) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": content, "tool_calls": calls},
        *({"role": "tool", "name": "search", "content": result} for result in results),
    ]


ONE = _calls({"depth": 2, "words": ['<"quoted">', "a, b: c", "\\", "日本"]})
TWO = _calls({"depth": 1}, {"words": [[], {}, {"a": None, "b": [True, 0.5]}]})
TALKS: dict[str, list[dict[str, Any]]] = {
    "a question": [{"role": "user", "content": "Look."}],
    "a system message": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Look."}],
    "an empty system message": [{"role": "system", "content": ""}, {"role": "user", "content": "Look."}],
    "a begun answer": [{"role": "user", "content": "Look."}, {"role": "assistant", "content": "I will"}],
    "one call": _talk(ONE, "", '{"found": ["<b>"]}'),
    "one call beside words": _talk(ONE, "Let me see.", "nothing\n& more"),
    "two calls": _talk(TWO, "", "first", "second"),
    "two calls, an answer, another question": [
        *_talk(TWO, "Both.", "first", "second"),
        {"role": "assistant", "content": "Here."},
        {"role": "user", "content": "Thanks."},
    ],
    "calls twice": [*_talk(ONE, "", "nothing"), *_talk(ONE, "", "something")[1:]],
}


@functools.cache
def _source(name: str) -> TemplateSource:
    return source_of_jinja(name, "a public template", original(name), ("<s>", "</s>"), name)


def _go(text: str, messages: Any, tools: Any, thinking: bool = False) -> str | None:
    system, merged = collate(messages)
    structs = [
        {
            "Role": m["role"],
            "Content": m["content"],
            "Thinking": m.get("reasoning_content", ""),
            "ToolCalls": [
                {
                    "ID": call["id"],
                    "Function": {
                        "Name": call["function"]["name"],
                        "Arguments": call["function"]["arguments"],
                    },
                }
                for call in m.get("tool_calls", ())
            ],
        }
        for m in merged
    ]
    data = {"System": system, "Response": "", "Think": thinking, "IsThinkSet": True}
    out = go_oracle().render(text, data, structs, tools=list(tools or ()))
    return None if out is None else out.decode()


def _compare(name: str, messages: Any, tools: Any, thinking: bool | None = None) -> bool:
    """Compare Ollama's prompt with the Jinja's; False where the Jinja refuses the conversation."""
    source = _source(name)
    begun = messages[-1]["role"] == "assistant"
    wishes: dict[str, Any] = {"add_generation_prompt": not begun, "continue_final_message": begun}
    wishes["thinking"] = thinking
    try:
        wanted = source.render(messages, tools=tools, **wishes)
    except TemplateError:
        return False
    text = DIALECT.write(source, None, NO_BOS)
    thinks = all(marks_in(GoTemplate(text)))
    if thinks or not thinking:
        assert DIALECT.render(text, messages, NO_BOS, tools=tools, **wishes) == wanted
        assert _go(text, messages, tools, thinks if thinking is None else thinking) == wanted
    return True


def _tool_cases(name: str) -> list[Case]:
    """Return the suite's cases; Llama refuses two calls in one turn."""
    one_call = "Llama" in name
    return [case for case in cases_of("tools") if not (one_call and case.name.startswith("two calls"))]


@pytest.mark.parametrize("name", STYLES)
def test_the_suite_is_exact(name: str) -> None:
    assert all(_compare(name, case.messages, case.tools) for case in _tool_cases(name))
    assert all(_compare(name, case.messages, None, case.thinking) for case in cases_of("thinking"))
    proof = prove(_source(name), None, ("jinja", "ollama"))
    assert {proof.dialects["ollama"].classes[kind].status for kind in ("chat", "tools")} == {"exact"}
    assert proof.dialects["ollama"].classes["thinking"].status in ("exact", "absent")


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", STYLES)
def test_awkward_texts_are_exact(name: str, talk: str) -> None:
    said = _compare(name, TALKS[talk], (AWKWARD, PLAIN))
    assert said or "Llama" in name  # which refuses two calls in one turn


def test_a_call_is_found_by_ollama_behind_its_mark() -> None:
    text = DIALECT.write(_source("Qwen-Qwen2.5-7B-Instruct"), None, NO_BOS)
    assert "{{ end }}<tool_call>{{" in text.partition("{{ if .ToolCalls }}")[2]


@pytest.mark.parametrize("name", STYLES)
def test_what_the_form_cannot_say_fails_instead_of_coming_out_wrong(name: str) -> None:
    text = DIALECT.write(_source(name), None, NO_BOS)
    lost = [{"role": "user", "content": "?"}, {"role": "tool", "content": "lost"}]
    unanswered = _talk(ONE, "")
    for messages in (lost, unanswered):
        assert _go(text, messages, (PLAIN,)) is None
        with pytest.raises(TemplateError):
            DIALECT.render(text, messages, NO_BOS, tools=[PLAIN], add_generation_prompt=True)


def test_calls_that_are_no_json_are_refused_with_the_reason() -> None:
    form = _source("Qwen-Qwen3.5-0.8B").form
    assert form is not None
    assert form.tools is None
    assert form.tools_refusal is not None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("style", ["spaced", "indented", "compact"])
@settings(max_examples=25, deadline=None)
@given(value=st.dictionaries(st.text(), VALUES, max_size=3))
def test_json_comes_out_as_python_writes_it(style: JsonStyle, value: dict[str, Any]) -> None:
    text = "\n".join(_printer_of(style)) + f'{{{{ template "{style}" (json .value) }}}}'
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    wanted = write_json(_sorted(value), style)
    assert GoTemplate(text).execute({"value": value}).lstrip("\n") == wanted
    out = go_oracle().render(text, {"value": value})
    assert out is not None
    assert out.decode().lstrip("\n") == wanted


def _printer_of(style: JsonStyle) -> list[str]:
    from dataclasses import replace

    form = _source("Qwen-Qwen2.5-7B-Instruct").form
    assert form is not None
    assert form.tools is not None
    return definitions(replace(form, tools=replace(form.tools, definition_style=style)))


def _sorted(value: Any) -> Any:
    """Go writes the keys of a map in the order of their bytes."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value, key=str.encode)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("tool", [AWKWARD, PLAIN, {"type": "function", "function": {"name": "bare"}}])
def test_tools_are_the_structs_that_go_has(tool: dict[str, Any]) -> None:
    data = {"Tools": [tool_value(tool)]}
    text = "{{ range .Tools }}{{ json .Function.Parameters }} {{ json . }}{{ end }}"
    out = go_oracle().render(text, {}, [], tools=[tool])
    assert out is not None
    assert GoTemplate(text).execute(data) == out.decode()


def test_a_tool_that_is_none_is_an_error() -> None:
    with pytest.raises(TemplateError, match="parameters"):
        tool_value({"type": "function", "function": {"name": "x", "parameters": [1]}})
    with pytest.raises(TemplateError, match="parameter"):
        tool_value({"function": {"name": "x", "parameters": {"properties": {"a": 1}}}})


@pytest.mark.parametrize("name", STYLES)
def test_the_jinja_written_from_the_form_says_the_same(name: str) -> None:
    form = _source(name).form
    assert form is not None
    jinja = write_jinja(form)
    for case in (*_tool_cases(name), *cases_of("thinking"), *cases_of("chat")):
        request = JinjaRequest(case.messages, tools=case.tools, variables={**switch(case.thinking)})
        assert shared_worker().render(jinja, request) == form.render(
            case.messages, tools=case.tools, thinking=case.thinking
        ), case.name


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", STYLES)
def test_the_jinja_written_from_the_form_treats_calls_the_same(name: str, talk: str) -> None:
    form = _source(name).form
    assert form is not None
    begun = TALKS[talk][-1]["role"] == "assistant"
    wishes: dict[str, Any] = {"add_generation_prompt": not begun, "continue_final_message": begun}
    request = JinjaRequest(TALKS[talk], tools=[AWKWARD, PLAIN], **wishes)
    said = shared_worker().render_all(write_jinja(form), [request])[0]
    try:
        wanted = form.render(TALKS[talk], tools=[AWKWARD, PLAIN], **wishes)
    except TemplateError:
        assert isinstance(said, RenderFailed)
    else:
        assert said == wanted
