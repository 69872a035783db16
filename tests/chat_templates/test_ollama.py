"""Ollama's Go templates: written from forms, run by our interpreter and by Go itself."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat_templates.dates import marked
from chat_templates.dialects.base import DialectFacts, DialectRefused
from chat_templates.dialects.gotemplate import GoTemplate
from chat_templates.dialects.ollama import OllamaDialect, collate, limits
from chat_templates.dialects.ollama_thinking import marks_in
from chat_templates.rounds import ROUND
from chat_templates.sources.source import TemplateSource
from chat_templates.template import ChatTemplate, Markup, Thinking
from errors import TemplateError
from tests.chat_templates.forms import thinkings
from tests.chat_templates.go_oracle.oracle import go_oracle

DIALECT = OllamaDialect()
CHATML = ChatTemplate(
    name="chatml",
    user=Markup("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=Markup("<|im_start|>assistant\n", "<|im_end|>"),
    system=Markup("<|im_start|>system\n", "<|im_end|>\n"),
    generation_prompt="<|im_start|>assistant\n",
    separator="\n",
    stop=("<|im_end|>",),
)
NO_BOS = DialectFacts()
NOW = datetime.datetime(2031, 5, 7, 23, 59, 59)


def form(**changes: Any) -> ChatTemplate:
    return ChatTemplate(**{**CHATML.__dict__, **changes})


def source(template: ChatTemplate | None, refusal: str | None = None) -> TemplateSource:
    return TemplateSource("family:test", "a test", "form", "", template, refusal)


def write(template: ChatTemplate, facts: DialectFacts = NO_BOS) -> str:
    return DIALECT.write(source(template), None, facts)


def said(*contents: str, first: str = "user") -> list[dict[str, str]]:
    """Return a conversation of turns; a `system` first turn comes on top."""
    roles = ["system"] if first == "system" else []
    while len(roles) < len(contents):
        roles.append("user" if not roles or roles[-1] != "user" else "assistant")
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


def go_render(
    text: str, messages: list[dict[str, Any]], now: datetime.datetime = NOW, thinking: bool | None = None
) -> str | None:
    """Run `text` with Go itself on what Ollama would hand over; a template that can think does by default."""
    system, merged = collate(messages)
    structs = [
        {"Role": m["role"], "Content": m["content"], "Thinking": m.get("reasoning_content", "")}
        for m in merged
    ]
    if thinking is None and all(marks_in(GoTemplate(text))):
        thinking = True
    data = {"System": system, "Response": "", "Think": bool(thinking), "IsThinkSet": thinking is not None}
    out = go_oracle().render(text, data, structs, str(now.date()))
    return None if out is None else out.decode()


def agrees(
    template: ChatTemplate,
    messages: list[dict[str, Any]],
    facts: DialectFacts = NO_BOS,
    now: datetime.datetime = NOW,
    thinking: bool | None = None,
) -> None:
    text = write(template, facts)
    last = messages[-1]["role"] == "assistant"
    wishes: dict[str, Any] = {"add_generation_prompt": not last, "continue_final_message": last}
    wanted = template.render(messages, now=now, thinking=thinking, **wishes)
    facts = replace(facts, now=now)
    assert DIALECT.render(text, messages, facts, thinking=thinking, **wishes) == wanted
    bos = facts.bos_token or "" if facts.adds_bos else ""
    ran = go_render(text, messages, now, thinking)
    assert ran is not None
    assert bos + ran == wanted


def test_the_chatml_template_reads_well() -> None:
    assert write(CHATML) == (
        "{{- /* Chat template written by Portside. */ -}}\n"
        "{{- range $index, $_ := .Messages }}\n"
        "{{- $last := eq (len (slice $.Messages $index)) 1 }}\n"
        '{{- if and $index (eq .Role "system") }}'
        '{{ template "this chat template takes a system message only as the first message" . }}\n'
        '{{- else if eq .Role "system" }}{{ "<|im_start|>system\\n" }}{{ .Content }}{{ "<|im_end|>\\n" }}\n'
        '{{- else if eq .Role "user" }}{{ "<|im_start|>user\\n" }}{{ .Content }}{{ "<|im_end|>\\n" }}\n'
        '{{- else if eq .Role "assistant" }}{{ "<|im_start|>assistant\\n" }}{{ .Content }}'
        '{{ if not $last }}{{ "<|im_end|>\\n" }}{{ end }}\n'
        '{{- else }}{{ template "this chat template has no place for a message of this role" . }}\n'
        "{{- end }}\n"
        '{{- if and $last (ne .Role "assistant") }}{{ "<|im_start|>assistant\\n" }}{{ end }}\n'
        "{{- end -}}\n"
    )


VARIANTS = {
    "chatml": CHATML,
    "default system": form(default_system='You are {{ helpful }}, and "quoted".'),
    "no system text": form(no_system="[none]\n", bos="<s>"),
    "empty system is absent": form(default_system="Default.", empty_system="absent"),
    "empty system, no default": form(empty_system="absent"),
    "no system accepted": form(system=None, bos="<bos>"),
    "system in the first user turn": form(
        system=Markup("<<SYS>>\n", "\n<</SYS>>\n\n"), system_placement="first_user", bos="<s>"
    ),
    "default in the first user turn": form(
        system=Markup("<<SYS>>\n", "\n<</SYS>>\n\n"),
        system_placement="first_user",
        default_system="D",
        empty_system="absent",
        trimmed=frozenset({"system", "user"}),
    ),
    "text in the first user turn": form(system=None, system_placement="first_user", no_system="[first] "),
    "system in the last user turn": form(
        system=Markup("[", "]\n\n"), system_placement="last_user", default_system="D", bos="<s>"
    ),
    "system in the last user turn, empty": form(
        system=Markup("[", "]"), system_placement="last_user", no_system="none", empty_text="empty"
    ),
    "system dropped": form(system=Markup("given ", ""), dropped=frozenset({"system"}), empty_text="e"),
    "text before a begun answer": form(begun="<think>\n\n</think>\n\n", thinking=Thinking()),
    "text before the last question": form(last_question="Think first.\n", system_placement="first_user"),
    "answers dropped": form(dropped=frozenset({"assistant"}), thinking=Thinking()),
    "trimmed": form(trimmed=frozenset({"system", "user", "assistant"})),
    "thinking": form(thinking=Thinking(), generation_prompt="<|im_start|>assistant\n<think>\n"),
    "thinking, spaces stay": form(thinking=Thinking(strip_after="nothing"), trimmed=frozenset({"assistant"})),
    "thinking, an answer prefix": form(
        thinking=Thinking(strip_history=False, prefix="<|im_start|>A "), trimmed=frozenset({"assistant"})
    ),
    "questions with numbers": form(user=Markup(f"[Round {ROUND}] Q: ", "\n"), bos="<s>"),
    "tool results": form(tool=Markup("<tool>", "</tool>")),
    "awkward text": form(
        user=Markup('{{ "x" }}`\u3000\u00a0', '"""\r\n{{/* c */}} -}} \u200d'), separator="  "
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    "contents",
    [
        ("Hi",),
        ("Hi", "Hello", "And?"),
        ("Hi", "Hel"),
        (" Hi \n", "\t Hello\u3000 ", " \u2003x\x85"),
        ("", "<think>a</think>b</think>\n\n c ", "d"),
        ("q", "<think>open", "d", "<think>x</think> y"),
        ("🏴‍☠️ {{ .Content }} <&>", "«é»", "\n\n"),
    ],
)
def test_says_what_the_form_says(name: str, contents: tuple[str, ...]) -> None:
    template = VARIANTS[name]
    agrees(template, said(*contents))
    if template.system is not None:
        agrees(template, said("Be brief.", *contents, first="system"))
        agrees(template, said("", *contents, first="system"))


texts = st.text(st.sampled_from('aé {}"`\n\t\u00a0\u3000<|>%-/*\\0\u200d😀'), max_size=8)
markups = st.builds(Markup, texts, texts)
dated = texts | st.sampled_from(["%d %b %Y", "a%Y-%m-%db", "%B %-d, %y%%"]).map(marked)
forms = st.builds(
    ChatTemplate,
    name=st.just("any"),
    user=markups,
    assistant=markups,
    generation_prompt=texts,
    system=st.none() | markups,
    bos=st.sampled_from(["", "<s>", "<s>\n"]),
    system_placement=st.sampled_from(["own_turn", "first_user", "last_user"]),
    default_system=st.none() | texts,
    no_system=dated,
    empty_system=st.sampled_from(["block", "absent"]),
    empty_text=st.none() | texts,
    dropped=st.sampled_from([frozenset(), frozenset({"system"}), frozenset({"user", "assistant"})]),
    separator=texts,
    last_question=st.just("") | dated,
    trimmed=st.sampled_from([frozenset(), frozenset({"user"}), frozenset({"user", "assistant"})]),
    thinking=st.none() | thinkings(),
)
contents = st.one_of(texts, st.builds("<think>{}</think>{}".format, texts, texts))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    forms,
    st.lists(st.tuples(contents, st.just("") | texts), min_size=1, max_size=4),
    st.none() | texts,
    st.booleans(),
    st.sampled_from((None, True, False)),
)
def test_says_what_any_form_says(
    template: ChatTemplate,
    turns: list[tuple[str, str]],
    system: str | None,
    adds_bos: bool,
    thinking: bool | None,
) -> None:
    messages = said(*(content for content, _ in turns))
    for message, (_, thought) in zip(messages, turns, strict=True):
        message["reasoning_content"] = thought
    if template.thinking is None or template.thinking.on is not None:
        thinking = None  # Ollama refuses to think with such a template
    if system is not None and template.system is not None:
        messages = [{"role": "system", "content": system}, *messages]
    facts = DialectFacts(bos_token="<s>", adds_bos=adds_bos and bool(template.bos))
    agrees(template, messages, facts, thinking=thinking)


def test_days_of_a_leap_year_are_written_as_python_does() -> None:
    patterns = ["%Y-%m-%d", "%d %b %Y", "%B %d, %Y", "%-d.%-m.%y", "%e %h", "%F%%"]
    template = form(
        system=Markup("|".join(map(marked, patterns)), ";"), default_system=marked("%B"), bos=marked("%d")
    )
    for day in (*range(0, 366, 14), 30, 58, 59, 60, 90, 365):  # the ends of months among them
        now = datetime.datetime(2028, 1, 1) + datetime.timedelta(days=day)
        agrees(template, said("Be brief.", "Hi", first="system"), now=now)
        agrees(template, said("Hi"), now=now)


@pytest.mark.parametrize("pattern", ["%A", "%H:%M", "%j", "%", "%_d"])
def test_a_date_that_ollama_cannot_write_is_refused_in_words(pattern: str) -> None:
    with pytest.raises(DialectRefused, match="year, month and day only"):
        write(form(no_system=marked(pattern)))


def test_bos_is_written_only_when_the_tokenizer_does_not_add_it() -> None:
    template = form(bos="<s>\n")
    assert '"<s>' not in write(template, DialectFacts("<s>", adds_bos=True))
    assert '"<s>\\n"' in write(template, DialectFacts("<s>"))
    assert "chat" in limits(CHATML, DialectFacts("<s>", adds_bos=True))
    assert "chat" not in limits(template, DialectFacts("<s>", adds_bos=True))


@pytest.mark.parametrize(
    ("template", "messages"),
    [
        (form(system=None), said("s", "u", first="system")),
        (CHATML, [{"role": "tool", "content": "42"}]),
        (CHATML, [*said("u", "a"), {"role": "system", "content": "late"}, *said("u")]),
        (CHATML, [{"role": "developer", "content": "x"}]),
        (
            VARIANTS["system in the first user turn"],
            [*said("u", "a"), {"role": "system", "content": "late"}, *said("u")],
        ),
    ],
)
def test_what_the_form_refuses_fails_in_words(template: ChatTemplate, messages: list[dict[str, str]]) -> None:
    text = write(template)
    with pytest.raises(TemplateError, match="this chat template"):
        DIALECT.render(text, messages, NO_BOS)
    assert go_render(text, messages) is None


def test_collation_merges_as_ollama_does() -> None:
    system, merged = collate(
        [
            {"role": "system", "content": "a"},
            {"role": "system", "content": "b"},
            {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
            {"role": "tool", "content": "1"},
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": None},
            {"role": "system", "content": "e"},
        ]
    )
    assert system == "a\n\nb\n\ne"
    assert [(m["role"], m["content"]) for m in merged] == [
        ("system", "a\n\nb"),
        ("user", "c\n\nd"),
        ("tool", "1"),
        ("tool", "2"),
        ("assistant", ""),
        ("system", "e"),
    ]


def test_repeated_roles_are_what_ollama_makes_of_them() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    assert "a\n\nb<|im_end|>" in DIALECT.render(write(CHATML), messages, NO_BOS)
    assert "repeated" in limits(CHATML)


def test_refusals() -> None:
    with pytest.raises(DialectRefused, match="too clever"):
        DIALECT.write(source(None, "too clever"), None, NO_BOS)
    text = write(CHATML)
    with pytest.raises(DialectRefused, match="continues"):
        DIALECT.render(text, said("u"), NO_BOS, continue_final_message=True)
    with pytest.raises(DialectRefused, match="always asks"):
        DIALECT.render(text, said("u"), NO_BOS, add_generation_prompt=False)
    with pytest.raises(DialectRefused, match="Tools"):
        DIALECT.render(text, said("u"), NO_BOS, tools=[{"type": "function"}])
    with pytest.raises(DialectRefused, match="Tools"):
        DIALECT.render("{{ .Prompt }}", said("u"), NO_BOS, tools=[{"type": "function"}])
    with pytest.raises(TemplateError, match="text only"):
        DIALECT.render(text, [{"role": "user", "content": [{"type": "image_url"}]}], NO_BOS)


def test_tool_calls_reach_a_hand_written_template() -> None:
    one = "{{ .Function.Name }}{{ .Function.Arguments }}"
    text = "{{ range .Messages }}{{ range .ToolCalls }}" + one + "{{ end }}{{ end }}"
    call: dict[str, Any] = {"function": {"name": "add", "arguments": '{"b": 2, "a": "<"}'}}
    messages = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    assert DIALECT.render(text, messages, NO_BOS) == 'add{"a":"\\u003c","b":2}'
    call["function"]["arguments"] = "no json"
    with pytest.raises(TemplateError, match="tool call"):
        DIALECT.render(text, messages, NO_BOS)


def test_every_template_is_read_as_messages_mode() -> None:
    for template in VARIANTS.values():
        assert "Messages" in GoTemplate(write(template)).identifiers()


def test_ollama_takes_thoughts_out_of_a_qwen3_models_past_answers_itself() -> None:
    kept = form(thinking=Thinking(strip_history=False))
    messages = said("Hi", "<think>\nA greeting.\n</think>\n\nHello", "And?")
    facts = DialectFacts(model_type="qwen3")
    assert DIALECT.render(write(kept), messages, NO_BOS) == kept.render(messages)
    assert DIALECT.render(write(kept), messages, facts) == kept.render(said("Hi", "Hello", "And?"))
    assert "qwen3" in limits(kept, facts)["thinking"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{{ range .Messages }}<a> {{ .Thinking }}</a>{{ end }}", ("<a>", "</a>")),
        ("{{ range .Messages }}{{ if .Thinking }}<a>{{ .Thinking }}</a>{{ end }}{{ end }}", ("<a>", "</a>")),
        ("{{ range .Messages }}{{ if .Thinking }}{{ .Thinking }}{{ end }}{{ end }}", ("", "")),
        ("{{ range .Tools }}<a>{{ .Thinking }}</a>{{ end }}{{ .Messages }}", ("", "")),
        ("{{ range $.Messages }}<a>{{ .Thinking }}</a>{{ end }}", ("", "")),
    ],
)
def test_the_marks_of_thoughts_are_found_as_ollama_finds_them(text: str, found: tuple[str, str]) -> None:
    assert marks_in(GoTemplate(text)) == found


def test_a_template_without_marks_cannot_be_asked_to_think() -> None:
    with pytest.raises(DialectRefused, match="refuses requests to think"):
        DIALECT.render(write(CHATML), said("Hi"), NO_BOS, thinking=True)


def test_a_model_that_thinks_only_when_asked_shows_no_marks() -> None:
    quiet = form(thinking=Thinking(on="<|im_start|>assistant\n<think>\n"))
    assert marks_in(GoTemplate(write(quiet))) == ("", "")
    agrees(quiet, said("Hi"))
    assert "only when asked" in limits(quiet)["thinking"]
