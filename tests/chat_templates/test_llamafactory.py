"""LLaMA-Factory's templates say what its own code trains on, with the arguments a run's files hold."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_templates import analyse_stops, inspect_template, load_source, prove
from chat_templates.conversations import cases_of
from chat_templates.jinja_engine import JinjaRequest, shared_worker
from chat_templates.sources.llamafactory import llamafactory_form, llamafactory_names, load_llamafactory
from chat_templates.sources.trainers import Tokens, source_of
from chat_templates.sources.training_arguments import Arguments, read_arguments
from chat_templates.template import ChatTemplate, Message, Thinking
from chat_templates.trainers import facts
from chat_templates.trainers.refresh import llamafactory_toml
from checkpoint import Checkpoint
from errors import TemplateError, UsageError
from tests.chat_templates.forms import conversations as conversations_of_any_kind
from tests.chat_templates.forms import forms
from tests.chat_templates.trainer_wheels import Characters, llamafactory_text
from tests.chat_templates.trainings import check, conversations

TOKENS = Tokens("<s>", "</s>", known=True)
NAMES = llamafactory_names()
THINKERS = [name for name in NAMES if facts("llamafactory")[name].get("class") in ("reasoning", "glm47")]


def check_all(
    name: str,
    form: ChatTemplate,
    *,
    tokenizer: tuple[str | None, str | None] = ("<s>", "</s>"),
    answers: tuple[str, ...] = (),
    **arguments: Any,
) -> None:
    for messages in conversations(answers=answers):
        characters = Characters(*tokenizer)
        trained, prompts = llamafactory_text(name, messages, characters, **arguments)
        end = str(characters.eos_token) if facts("llamafactory")[name].get("efficient_eos") else ""
        check(form, messages, trained, prompts, end)


def test_every_registration_is_there() -> None:
    assert len(NAMES) == 121


@pytest.mark.parametrize("name", NAMES)
def test_the_text_is_the_one_that_llamafactory_trains_on(name: str) -> None:
    check_all(name, llamafactory_form(Arguments(name), TOKENS))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_so_with_a_tokenizer_that_has_neither_bos_nor_eos(name: str) -> None:
    check_all(name, llamafactory_form(Arguments(name), Tokens(known=True)), tokenizer=(None, None))


@pytest.mark.parametrize("name", NAMES)
def test_the_jinja_is_exact(name: str) -> None:
    form = llamafactory_form(Arguments(name), TOKENS)
    source = source_of(f"llamafactory:{name}", name, form, TOKENS)
    assert prove(source, None, ("jinja",)).dialects["jinja"].exact


def test_the_data_file_is_what_the_wheel_says() -> None:
    llamafactory_text("qwen", next(conversations()), Characters(None, None))  # skips without the wheel
    assert facts("llamafactory") == tomllib.loads(llamafactory_toml())


def test_the_default_system_message_can_be_another() -> None:
    for default in ("Be kind.", ""):
        form = llamafactory_form(Arguments("qwen", default_system=default), TOKENS)
        check_all("qwen", form, default_system=default)


# thoughts


@pytest.mark.parametrize("name", THINKERS)
@pytest.mark.parametrize("thinking", [True, None, False])
def test_an_answer_without_thoughts_has_an_empty_one(name: str, thinking: bool | None) -> None:
    form = llamafactory_form(Arguments(name, enable_thinking=thinking), TOKENS)
    check_all(name, form, enable_thinking=thinking)


def thoughtful(name: str) -> tuple[str, ...]:
    """Return three answers: with thoughts, without, with only the closing mark."""
    opening, closing = facts("llamafactory")[name].get("thought_words", ("<think>\n", "\n</think>\n\n"))
    return (f"{opening}Well.{closing}Yes.", "No.", f"So.{closing}Perhaps.")


@pytest.mark.parametrize("name", THINKERS)
def test_thoughts_stay_in_history_as_they_were_trained(name: str) -> None:
    form = llamafactory_form(Arguments(name), TOKENS)
    check_all(name, form, answers=thoughtful(name))
    for messages in conversations(answers=thoughtful(name)):
        asked = messages[:-1]
        text = shared_worker().render(source_of("x", "x", form, TOKENS).jinja, JinjaRequest(asked))
        assert text == form.render(asked)


@settings(max_examples=40, deadline=None)
@given(form=forms(), prefix=st.sampled_from(("", "A:", "'\\{{")), messages=conversations_of_any_kind())
def test_jinja_says_any_form_whose_thoughtful_answers_begin_otherwise(
    form: ChatTemplate, prefix: str, messages: list[Message]
) -> None:
    form = replace(form, thinking=replace(form.thinking or Thinking(), prefix=prefix))
    try:
        expected = form.render(messages)
    except TemplateError:
        return
    jinja = source_of("x", "x", form, TOKENS).jinja
    assert shared_worker().render(jinja, JinjaRequest(messages)) == expected


def test_thoughts_are_taken_out_where_the_trainer_did() -> None:
    answer = {"role": "assistant", "content": "<think>\nWell.\n</think>\n\nYes."}
    talk: list[Message] = [{"role": "user", "content": "Hi"}, answer, {"role": "user", "content": "Ho"}]
    form = llamafactory_form(Arguments("qwen3", enable_thinking=False), TOKENS)
    _, prompts = llamafactory_text("qwen3", [*talk, answer], Characters("<s>", "</s>"), enable_thinking=False)
    assert form.render(talk) == prompts[-1]
    assert prompts[-1].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_masked_history_is_refused_where_it_changes_the_text() -> None:
    with pytest.raises(TemplateError, match="mask_history"):
        llamafactory_form(Arguments("qwen3", mask_history=True), TOKENS)
    form = llamafactory_form(Arguments("qwen3", mask_history=True, preserve_thinking=True), TOKENS)
    check_all("qwen3", form, mask_history=True, preserve_thinking=True)
    check_all("qwen", llamafactory_form(Arguments("qwen", mask_history=True), TOKENS), mask_history=True)


def test_ollama_and_lmdeploy_say_so_where_they_cannot() -> None:
    source = source_of("x", "x", llamafactory_form(Arguments("qwen3"), TOKENS), TOKENS)
    proof = prove(source, None)
    assert proof.dialects["ollama"].ok
    assert proof.dialects["ollama"].classes["thinking"].status == "exact"
    assert "begin with different texts" in str(proof.dialects["lmdeploy"].refusal)
    assert any("think" in str(case.messages) for case in cases_of("thinking"))


# stops and BOS


def test_stops_are_what_the_model_learns_to_end_with() -> None:
    def stops(name: str) -> tuple[str, ...]:
        return llamafactory_form(Arguments(name), TOKENS).stop

    assert stops("qwen") == ("<|im_end|>",)  # replace_eos: the tokenizer's EOS is this one now
    assert stops("yi") == ("<|im_end|>", "</s>")
    assert stops("glm4") == ("</s>", "<|user|>", "<|observation|>")  # EOS is learnt behind every answer
    assert stops("vicuna") == ("</s>",)


def test_bos_of_every_turn_is_told_to_the_engines() -> None:
    form = llamafactory_form(Arguments("llama2"), TOKENS)
    assert (form.bos, form.user.prefix, form.separator) == ("<s>", "[INST] ", "<s>")


def test_the_mismatch_with_the_checkpoints_own_template_is_found(sample: Path) -> None:
    checkpoint = Checkpoint.open(sample)
    found = inspect_template(checkpoint, load_source("llamafactory:qwen", checkpoint))
    assert "template-differs" in [finding.code for finding in found]
    own = load_source("llamafactory:smollm2", checkpoint)
    assert analyse_stops(own, checkpoint).strings[0] == "<|im_end|>"


# names and files


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Did you mean llamafactory:qwen") as caught:
        load_source("llamafactory:qwne", None)
    assert caught.value.exit_code == 2
    for nothing in ("", "x" * 5000):
        with pytest.raises(UsageError, match="LLaMA-Factory has no chat template"):
            load_llamafactory(nothing, None)
    with pytest.raises(TemplateError, match="Cannot read"):
        load_llamafactory("x" * 5000 + ".yaml", None)


def test_eos_must_be_known_where_the_text_has_it() -> None:
    assert load_source("llamafactory:qwen", None).origin == "form"
    with pytest.raises(TemplateError, match="EOS token"):
        load_source("llamafactory:vicuna", None)


def written(tmp_path: Path, text: str, name: str = "run.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


RUN = """\
### model
model_name_or_path: Qwen/Qwen2.5-7B-Instruct
deepspeed: {stage: 2}   # template: wrong
dataset:
  - identity
template: qwen   # as in the base model
cutoff_len: 2048
"""
YAML: dict[str, dict[str, Any]] = {
    RUN: {"template": "qwen"},
    RUN.replace("\n", "\r\n"): {"template": "qwen"},
    '"template": "qwen"': {"template": "qwen"},
    "template: 'it''s' # x": {"template": "it's"},
    "template: qwen3\nenable_thinking: false": {"template": "qwen3", "enable_thinking": False},
    "template: qwen3\nenable_thinking:": {"template": "qwen3", "enable_thinking": None},
    'template: qwen\ndefault_system: "a \\"b\\"\\n# c"': {"template": "qwen", "default_system": 'a "b"\n# c'},
    "default_system: Be kind, please\ntemplate: qwen": {
        "template": "qwen",
        "default_system": "Be kind, please",
    },
    "default_system: null\n---\ntemplate: qwen": {"template": "qwen"},
    "template: qwen\nmask_history: yes\npreserve_thinking: True": {
        "template": "qwen",
        "mask_history": True,
        "preserve_thinking": True,
    },
}


@pytest.mark.parametrize("text", YAML, ids=range(len(YAML)))
def test_training_arguments_are_read(text: str, tmp_path: Path) -> None:
    assert read_arguments(written(tmp_path, text)) == Arguments(**YAML[text])


def test_training_arguments_may_be_json(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps({"template": "qwen", "lora_rank": 8}), "run.json")
    assert read_arguments(path) == Arguments("qwen")


BAD = {
    "": "names no `template`",
    "template:": "names no `template`",
    "template: ~": "names no `template`",
    "template: |\n  qwen": "not read here",
    "template: qwen\n  and more": "not read here",
    "template:\n- qwen": "not read here",
    "template: &a qwen": "not read here",
    "template: [qwen]": "not read here",
    'template: "qwen': "not read here",
    'template: "\\q"': "cannot be read",
    "template: qwen\ntemplate: yi": "twice, again in line 2",
    "template: yes": "cannot be True",
    "template: qwen\nenable_thinking: maybe": "cannot be 'maybe'",
    "template: qwne": r"no chat template 'qwne'",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_what_cannot_be_read_is_refused_in_words(text: str, tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=BAD[text]):
        load_llamafactory(str(written(tmp_path, text)), None)


@pytest.mark.parametrize(
    ("text", "said"), [("[1]", "not a JSON object"), ("{", "not JSON"), ("[" * 99999, "JSON")]
)
def test_bad_json_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=said):
        load_llamafactory(str(written(tmp_path, text, "run.json")), None)


def test_a_run_directory_has_its_arguments(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"0 files.*chat_template\.jinja found there is usually"):
        load_llamafactory(str(tmp_path), None)
    written(tmp_path, "top.template: default", "llamaboard_config.yaml")
    written(tmp_path, RUN)
    source = load_llamafactory(str(tmp_path), None)
    assert source.form is not None
    assert source.form.name == "qwen"
    assert "run.yaml" in source.description
    written(tmp_path, "template: yi", "other.yml")
    with pytest.raises(TemplateError, match=r"2 files.*run\.yaml, other\.yml"):
        load_llamafactory(str(tmp_path), None)
    written(tmp_path, "template: qwen3_nothink", "training_args.yaml")
    form = load_llamafactory(str(tmp_path), None).form
    assert form is not None
    assert form.name == "qwen3_nothink"


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="Cannot read"):
        load_llamafactory(str(tmp_path / "none.yaml"), None)
    (tmp_path / "latin.yaml").write_bytes(b"template: \xe9")
    with pytest.raises(TemplateError, match="not UTF-8"):
        load_llamafactory(str(tmp_path / "latin.yaml"), None)
