"""An Ollama Modelfile as a template source: what Ollama feeds, judged by Go, and the form found in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chat_templates import families, inspect_template, load_source, prove
from chat_templates.conversations import cases_of
from chat_templates.dialects.base import DialectFacts
from chat_templates.dialects.ollama import OllamaDialect
from chat_templates.jinja_engine import RenderFailed
from chat_templates.modelfile import Modelfile
from chat_templates.sources.modelfile import is_modelfile
from chat_templates.sources.source import TemplateSource
from checkpoint import Checkpoint
from errors import TemplateError
from modelfiles import parse, write
from tests.chat_templates.go_oracle.oracle import go_oracle
from tests.chat_templates.trainer_wheels import Characters, llamafactory_modelfile

Make = Callable[..., Path]
Messages = list[dict[str, str]]

CHATML = """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}"""
LLAMA2 = "[INST] <<SYS>>{{ .System }}<</SYS>>\n\n{{ .Prompt }} [/INST]\n"
MISTRAL = "[INST] {{ if .System }}{{ .System }} {{ end }}{{ .Prompt }} [/INST]"
NESTED = "{{ if .Prompt }}Q: {{ .Prompt }} A: {{ .Response }}.{{ end }} # {{ if .System }}late{{ end }}"
LEGACY = {
    # name: the whole template, and by hand what Ollama leaves of it for the last turn
    "chatml": (CHATML + "<|im_end|>\n", CHATML),
    "llama 2, no .Response": (LLAMA2 + "{{ .Response }}", LLAMA2 + "{{ .Response }}"),
    "mistral": (MISTRAL + " {{ .Response }}</s>", MISTRAL + " {{ .Response }}"),
    "response inside an if": (NESTED, "{{ if .Prompt }}Q: {{ .Prompt }} A: {{ .Response }}{{ end }}"),
    "response in a pipeline": ("{{ .Prompt }}>{{ .Response | print }}!", "{{ .Prompt }}>"),
    "response by way of $": (
        "{{ .Prompt }}>{{ $.Response }}!{{ .Response }}?",
        "{{ .Prompt }}>{{ $.Response }}!{{ .Response }}",
    ),
    "response in an argument": (
        '{{ .Prompt }}>{{ printf "%s%s" .Response .Prompt }}!',
        '{{ .Prompt }}>{{ printf "%s%s" .Response }}',
    ),
}
SYSTEM = {"role": "system", "content": "S"}
U1, A1, U2 = ({"role": r, "content": c} for r, c in (("user", "U1"), ("assistant", "A1"), ("user", "U2")))
# A conversation, and the runs that Ollama makes of it: system, prompt, response.
CONVERSATIONS: list[tuple[Messages, list[tuple[str, str, str]]]] = [
    ([U1], [("", "U1", "")]),
    ([SYSTEM, U1], [("S", "U1", "")]),
    ([SYSTEM, U1, A1, U2], [("S", "U1", "A1"), ("", "U2", "")]),
    ([U1, A1], [("", "U1", "A1")]),
    ([U1, SYSTEM, U2], [("", "U1", ""), ("S", "U2", "")]),
    ([U1, A1, SYSTEM, U2], [("", "U1", "A1"), ("S", "U2", "")]),
    ([A1, U2], [("", "", "A1"), ("", "U2", "")]),
    ([U1, {"role": "tool", "content": "T"}, U2], [("", "U2", "")]),
]


def saved(directory: Path, template: str, *, system: str | None = None, stop: tuple[str, ...] = ()) -> str:
    path = directory / "Modelfile"
    stops = tuple(("stop", text) for text in stop)
    path.write_text(write(Modelfile("./x.gguf", template=template, system=system, parameters=stops)))
    return str(path)


def in_go(template: str, system: str, prompt: str, response: str) -> str | None:
    out = go_oracle().render(template, {"System": system, "Prompt": prompt, "Response": response})
    return None if out is None else out.decode()


@pytest.mark.parametrize("name", LEGACY)
@pytest.mark.parametrize(("messages", "runs"), CONVERSATIONS)
def test_legacy_templates_run_once_a_turn(
    name: str, messages: Messages, runs: list[tuple[str, str, str]]
) -> None:
    whole, cut = LEGACY[name]
    template = whole.removesuffix("{{ .Response }}") if "no .Response" in name else whole
    parts = [in_go(whole, *run) for run in runs[:-1]] + [in_go(cut, *runs[-1])]
    ends = messages[-1]["role"] == "assistant"
    said = OllamaDialect().render(
        template, messages, DialectFacts(), add_generation_prompt=not ends, continue_final_message=ends
    )
    assert [said] == ["".join(map(str, parts))]


def test_the_prompts_people_know() -> None:
    def said(template: str) -> str:
        return OllamaDialect().render(template, [SYSTEM, U1, A1, U2], DialectFacts("<s>", adds_bos=True))

    assert said(CHATML + "<|im_end|>\n") == (
        "<s><|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1"
        "<|im_end|>\n<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n"
    )
    assert said(LLAMA2) == (
        "<s>[INST] <<SYS>>S<</SYS>>\n\nU1 [/INST]\nA1[INST] <<SYS>><</SYS>>\n\nU2 [/INST]\n"
    )
    assert said(MISTRAL) == "<s>[INST] S U1 [/INST]A1[INST] U2 [/INST]"


def test_what_the_last_turn_lacks_fails_as_in_ollama() -> None:
    for template, reason in (
        ("{{ if .System }}{{ .Response }}{{ else }}x{{ end }}", "HTTP 500"),
        ("{{ json .Prompt }}", "json, a function that the last turn lacks"),
        ('{{ define "x" }}y{{ end }}{{ template "x" }}', "not defined"),
    ):
        with pytest.raises(TemplateError, match=reason):
            OllamaDialect().render(template, [U1], DialectFacts())
    assert OllamaDialect().render("{{ .Prompt }}{{ .Response }}{{ json 1 }}", [U1], DialectFacts()) == "U1"


LLAMA3 = """{{ range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>

{{ .Content }}<|eot_id|>{{ end }}<|start_header_id|>assistant<|end_header_id|>

"""
MIGRATED: dict[str, tuple[str, tuple[str, ...]]] = {
    "chatml": (CHATML + "<|im_end|>\n", ("<|im_start|>", "<|im_end|>")),
    "llama2": (LLAMA2, ("[INST]", "[/INST]")),
    "mistral": (MISTRAL, ()),
    "llama3": (LLAMA3, ("<|eot_id|>",)),
}


@pytest.mark.parametrize("system", [None, "Be kind."])
@pytest.mark.parametrize("name", MIGRATED)
def test_a_modelfile_migrates_to_every_prompt_it_feeds(name: str, system: str | None, tmp_path: Path) -> None:
    template, stop = MIGRATED[name]
    source = load_source(saved(tmp_path, template, system=system, stop=stop), None)
    assert source.form is not None, source.form_refusal
    assert set(source.form.stop) == set(stop)
    for case in cases_of("chat"):
        own = [] if case.messages[0]["role"] == "system" or not system else [{**SYSTEM, "content": system}]
        fed = OllamaDialect().render(template, [*own, *case.messages], DialectFacts())
        assert source.render(case.messages) == fed == source.form.render(case.messages)
    proof = prove(source, None, ("jinja", "ollama"))
    assert {name: d.classes["chat"].status for name, d in proof.dialects.items()} == {
        "jinja": "exact",
        "ollama": "exact",
    }


def test_the_stop_ends_the_answer(tmp_path: Path) -> None:
    source = load_source(saved(tmp_path, *MIGRATED["chatml"][:1], stop=MIGRATED["chatml"][1]), None)
    assert source.form is not None
    assert source.form.assistant.suffix == source.form.stop[0] == "<|im_end|>"


@pytest.mark.parametrize(
    "name",
    [
        name if index % 3 == 0 else pytest.param(name, marks=pytest.mark.engines)
        for index, name in enumerate(families())
    ],
)
def test_our_own_modelfile_says_what_its_family_says(name: str, tmp_path: Path) -> None:
    family = load_source(f"family:{name}", None)
    assert family.form is not None
    template = OllamaDialect().write(family, None, DialectFacts())
    back = load_source(saved(tmp_path, template, stop=family.form.stop), None)
    same = 0
    for case in cases_of("chat"):
        try:
            wanted = family.render(case.messages)
        except TemplateError:
            continue
        assert back.render(case.messages) == wanted
        same += 1
    assert same


@pytest.mark.parametrize("name", ["qwen", "chatml", "llama3", "phi4"])
def test_llamafactorys_modelfile(name: str, tmp_path: Path) -> None:
    path = tmp_path / "Modelfile.factory"
    path.write_text(llamafactory_modelfile(name, Characters("<s>", "</s>")))
    source = load_source(str(path), None)
    trained = load_source(f"llamafactory:{name}", None)
    assert source.form is not None, source.form_refusal
    assert source.form.stop
    bos = "<s>" if name == "llama3" else ""  # written out, so Ollama's tokenizer would double it
    assert source.render([SYSTEM, U1, A1, U2]) == bos + trained.render([SYSTEM, U1, A1, U2])


def refused(source: TemplateSource) -> str:
    with pytest.raises(RenderFailed) as caught:
        from chat_templates.jinja_engine import JinjaRequest, shared_worker

        shared_worker().render(source.jinja, JinjaRequest((U1,)))
    proof = prove(source, None)
    assert all(d.text is None for d in proof.dialects.values())
    assert source.form_refusal is not None
    assert all(source.form_refusal in (d.refusal or "") for d in proof.dialects.values())
    return caught.value.message


def test_what_has_no_form_is_refused_with_the_reason(tmp_path: Path) -> None:
    dated = load_source(
        saved(tmp_path, "{{ range .Messages }}{{ .Content }}{{ end }}{{ currentDate }}"), None
    )
    assert "today" in refused(dated)
    path = tmp_path / "Modelfile"
    path.write_text(f'FROM x\nTEMPLATE """{LLAMA3}"""\nMESSAGE user Hi\nMESSAGE assistant Ho\n')
    talked = load_source(str(path), None)
    assert "MESSAGE" in refused(talked)
    assert "Hi<|eot_id|>" in talked.render([U1])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("FROM x\n", "no TEMPLATE"),
        ("TEMPLATE x\n", "no FROM"),
        ("FROM x\nTEMPLATE {{ .Prompt\n", "fails on one question"),
        ("FROM x\nRENDERER qwen3-coder\nTEMPLATE {{ .Prompt }}\n", "RENDERER"),
    ],
)
def test_modelfiles_that_cannot_be_a_source(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "own").write_text(text)
    with pytest.raises(TemplateError, match=reason):
        load_source(f"modelfile:{tmp_path / 'own'}", None)
    with pytest.raises(TemplateError, match="Cannot read"):
        load_source(f"modelfile:{tmp_path / 'absent'}", None)


def test_names_of_modelfiles() -> None:
    for name, known in {
        "Modelfile": True,
        "a/Modelfile.q8_0": True,
        "x.modelfile": True,
        "Modelfiles": False,
        "x.gguf": False,
    }.items():
        assert is_modelfile(Path(name)) is known


def test_a_checkpoint_with_another_template_is_told(make_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(layers=1))
    source = load_source(saved(tmp_path, MISTRAL), checkpoint)
    codes = [finding.code for finding in inspect_template(checkpoint, source)]
    assert "template-differs" in codes
    own: Any = parse(Path(saved(tmp_path, MISTRAL)).read_text())
    assert own.template == MISTRAL
