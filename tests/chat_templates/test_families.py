"""The bundled families render as the originals do, and the TOML schema complains precisely."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from chat_templates import JinjaRequest, families, load_source
from chat_templates.conversations import cases_of
from chat_templates.jinja_engine import RenderFailed, shared_worker
from chat_templates.sources.toml_form import parse_form, read_family, read_form
from errors import TemplateError, UsageError
from tests.chat_templates.corpus import original

ORIGINALS = {
    "smollm2": "HuggingFaceTB-SmolLM2-135M-Instruct",
    "qwen2.5": "Qwen-Qwen2.5-7B-Instruct",
    "llama3": "NousResearch-Meta-Llama-3-8B-Instruct",
    "internlm2": "internlm-internlm2_5-7b-chat",
    "deepseek-r1-distill": "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B@56a144",
    "mistral": "mistralai-Mistral-7B-Instruct-v0.2",
    "gemma": "google-gemma-2-2b-it",
    "phi3": "microsoft-Phi-3-mini-4k-instruct",
}
TALK = (
    {"role": "user", "content": "A"},
    {"role": "assistant", "content": "B"},
    {"role": "user", "content": "C"},
)


@pytest.mark.parametrize(("family", "name"), ORIGINALS.items())
@pytest.mark.parametrize("class_name", ["chat", "unicode", "thinking"])
def test_a_family_renders_as_its_original(family: str, name: str, class_name: str) -> None:
    source = load_source(f"family:{family}", None)
    compared = 0
    for case in cases_of(class_name):
        request = JinjaRequest(case.messages, bos_token=source.bos_token, eos_token=source.eos_token)
        said = shared_worker().render_all(original(name), [request])[0]
        if isinstance(said, RenderFailed):
            with pytest.raises(TemplateError):
                source.render(case.messages)
        elif "reasoning_content" not in str(case.messages):
            assert source.render(case.messages) == said, case.name
            compared += 1
    assert compared


@pytest.mark.parametrize(
    ("family", "prompt"),
    [
        (
            "chatml",
            "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
            "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "alpaca",
            "<s>Below is an instruction that describes a task. Write a response that appropriately completes "
            "the request.\n\n### Instruction:\nA\n\n### Response:\nB</s>\n\n### Instruction:\nC\n\n### "
            "Response:\n",
        ),
        (
            "vicuna",
            "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives "
            "helpful, detailed, and polite answers to the user's questions. USER: A ASSISTANT: B</s>"
            "USER: C ASSISTANT:",
        ),
    ],
)
def test_the_families_without_an_original(family: str, prompt: str) -> None:
    assert load_source(f"family:{family}", None).render(TALK) == prompt


@pytest.mark.parametrize("name", families())
def test_every_family_names_its_stop_and_itself(name: str) -> None:
    source = load_source(f"family:{name}", None)
    assert source.form is not None
    assert source.form.stop
    assert source.form.assistant.suffix.startswith(source.form.stop[0])
    assert name in source.description


def test_an_unknown_family_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Did you mean family:smollm2\?"):
        load_source("family:smolm", None)


@pytest.mark.parametrize("spec", ["qwen", "", "template.txt", "xtuners:qwen_chat"])
def test_other_specs_are_usage_errors(spec: str) -> None:
    with pytest.raises(UsageError, match="alpaca"):
        load_source(spec, None)


def test_the_checkpoint_source_needs_a_checkpoint() -> None:
    with pytest.raises(UsageError, match="needs a checkpoint"):
        load_source("checkpoint", None)


MINIMAL = {"user": {"prefix": "U:"}, "assistant": {"prefix": "A:", "suffix": "{eos}"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"user": {"prefx": ""}}, r"unknown key 'prefx'.*'prefix'"),
        ({"generation_promt": ""}, "unknown key.*'generation_prompt'"),
        ({"user": None}, "must be a table"),
        ({"user": {"prefix": 1}}, r"must be a text"),
        ({"stop": "x"}, "must be a list of texts"),
        ({"stop": [1]}, "must be a list of texts"),
        ({"trim": ["robot"]}, "may hold system, user, assistant, tool, not 'robot'"),
        ({"system": {"placement": "last"}}, "one of own_turn, first_user"),
        ({"system": {"empty": []}}, "one of block, absent"),
        ({"thinking": {"strip_history": "yes"}}, "true or false"),
        ({"user": {}}, r"needs the tables \[user\] and \[assistant\]"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(change: dict[str, Any], said: str) -> None:
    with pytest.raises(TemplateError, match=said):
        parse_form({**MINIMAL, **change}, "x.toml", name="x", tokens=(None, "</s>"))


def test_eos_must_have_a_name() -> None:
    with pytest.raises(TemplateError, match=r"\{eos\}"):
        parse_form(MINIMAL, "x.toml", name="x")


def test_a_tokenizer_without_bos_gets_none_from_the_file() -> None:
    file = read_family("vicuna", (None, "<|im_end|>"))
    assert file.form.bos == ""
    assert file.form.assistant.suffix == "<|im_end|>"


def test_a_missing_bos_is_nothing_and_other_braces_stay() -> None:
    data = {**MINIMAL, "bos": "{bos}{x}", "assistant": {"suffix": "."}}
    assert parse_form(data, "x.toml", name="x").form.bos == "{x}"


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff", "not UTF-8"), (b"a = ", "not valid TOML"), (None, "Cannot read")],
)
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TemplateError, match=said):
        read_form(path)


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[user]\nprefix = "Q: "\nsuffix = "\\n"\n[assistant]\nprefix = "A: "\nsuffix = "\\n"\n')
    source = load_source(str(path), None)
    assert source.render(TALK, add_generation_prompt=False) == "Q: A\nA: B\nQ: C\n"
    assert source.origin == "form"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{% if %}", "not valid Jinja"),
        (b"\xff", "not UTF-8"),
        (None, "Cannot read"),
        (b"{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", "stopped"),
    ],
)
def test_a_jinja_file_that_cannot_be_used(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "x.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TemplateError, match=said):
        load_source(str(path), None)


def test_the_families_are_plain_toml_with_a_description() -> None:
    import chat_templates

    directory = Path(chat_templates.__file__).with_name("families")
    for path in directory.glob("*.toml"):
        assert tomllib.loads(path.read_text(encoding="utf-8"))["description"]
