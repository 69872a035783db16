"""The bundled families render as the originals do, and the TOML schema complains precisely."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from chat_templates import JinjaRequest, families, load_source
from chat_templates.conversations import cases_of
from chat_templates.jinja_engine import RenderFailed, shared_worker, switch
from chat_templates.sources.toml_form import family_aliases, parse_form, read_family, read_form
from errors import TemplateError, UsageError
from tests.chat_templates.corpus import original

ORIGINALS = {
    "chatglm3": "zai-org-chatglm3-6b",
    "command-r": "trl-internal-testing-tiny-CohereForCausalLM",
    "deepseek-r1-distill-llama": "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-r1-distill-qwen": "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B@56a144",
    "deepseek-v2": "deepseek-ai-DeepSeek-V2-Lite-Chat",
    "deepseek-v2-0628": "deepseek-ai-DeepSeek-V2-Chat-0628",
    "deepseek-v2.5": "deepseek-ai-DeepSeek-V2.5",
    "deepseek-v3": "yujiepan-deepseek-v3-tiny-random",
    "gemma2": "google-gemma-2-2b-it",
    "gemma3": "unsloth-gemma-3-270m-it",
    "glm4": "zai-org-glm-4-9b-chat",
    "glm4-0414": "zai-org-GLM-4-9B-0414",
    "internlm2.5": "internlm-internlm2_5-7b-chat",
    "llama2": "codellama-CodeLlama-7b-Instruct-hf",
    "llama3": "NousResearch-Meta-Llama-3-8B-Instruct",
    "llama3.1": "meta-llama-Llama-3.1-8B-Instruct",
    "minicpm": "openbmb-MiniCPM-MoE-8x2B",
    "minicpm3": "openbmb-MiniCPM3-4B",
    "mistral": "mistralai-Mistral-7B-Instruct-v0.2",
    "mistral-nemo": "mistralai-Mistral-Nemo-Instruct-2407",
    "mistral-v3": "mistralai-Mistral-7B-Instruct-v0.3",
    "phi3": "microsoft-Phi-3-mini-4k-instruct",
    "phi3.5": "microsoft-Phi-3.5-mini-instruct",
    "phi4": "microsoft-phi-4",
    "qwen1.5": "Qwen-Qwen2-0.5B",
    "qwen2": "Qwen-Qwen2-1.5B-Instruct",
    "qwen2.5": "Qwen-Qwen2.5-7B-Instruct",
    "qwen3": "Qwen-Qwen3-0.6B",
    "qwen3-instruct": "Qwen-Qwen3-4B-Instruct-2507",
    "qwen3-nothink": "Qwen-Qwen3-0.6B",
    "qwen3-thinking": "Qwen-Qwen3-4B-Thinking-2507",
    "smollm2": "HuggingFaceTB-SmolLM2-135M-Instruct",
    "yi1.5": "01-ai-Yi-1.5-9B-Chat",
    "zephyr": "openbmb-OmniLMM-12B",
}
"""The template that each family is read off. Qwen2-0.5B still carries the text of Qwen1.5, OmniLMM that of
Zephyr, and the tiny Cohere model that of Command R."""
NO_TURN_END = ("baichuan", "baichuan2", "chatglm3", "glm4", "glm4-0414", "minicpm")
"""History has nothing behind an answer; the model writes EOS or begins the next turn."""
VARIABLES = {"qwen3-nothink": {"enable_thinking": False}}
BEYOND_THE_FORM = {
    "glm4": ("an empty question", "an empty answer"),
    "llama2": (
        "blanks around every text",
        "line feeds around every text",
        "Chinese with ideographic spaces",
    ),
}
"""Cases in which an original does what the form cannot say: GLM-4 leaves out a message without text, Llama 2
trims the first question together with the system message in front of it."""
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
        request = JinjaRequest(
            case.messages,
            bos_token=source.bos_token,
            eos_token=source.eos_token,
            variables={**VARIABLES.get(family, {}), **switch(case.thinking)},
        )
        said = shared_worker().render_all(original(name), [request])[0]
        if isinstance(said, RenderFailed):
            with pytest.raises(TemplateError):
                source.render(case.messages)
        elif case.name in BEYOND_THE_FORM.get(family, ()):
            assert source.render(case.messages) != said, "the form can say it by now"
        else:
            assert source.render(case.messages, thinking=case.thinking) == said, case.name
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
        (
            "yi",
            "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
            "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n",
        ),
        # Baichuan's generation_utils.py joins the token ids of the two roles with the texts, and nothing else
        ("baichuan", "<reserved_102>A<reserved_103>B<reserved_102>C<reserved_103>"),
        ("baichuan2", "<reserved_106>A<reserved_107>B<reserved_106>C<reserved_107>"),
        # XTuner's internlm_chat with EOS behind <eoa> replaced by it (SUFFIX_AS_EOS)
        ("internlm", "<s><|User|>:A<eoh>\n<|Bot|>:B<eoa>\n<|User|>:C<eoh>\n<|Bot|>:"),
        (
            "internlm3",
            "<s><|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
            "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("mixtral", "<s> [INST] A [/INST] B</s> [INST] C [/INST]"),
        ("mistral-v1", "<s> [INST] A [/INST] B</s> [INST] C [/INST]"),
        (
            "deepseek-r1",
            "<｜begin▁of▁sentence｜><｜User｜>A<｜Assistant｜>B<｜end▁of▁sentence｜><｜User｜>C<｜Assistant｜><think>\n",
        ),
    ],
)
def test_a_family_against_prompts_written_by_hand(family: str, prompt: str) -> None:
    assert load_source(f"family:{family}", None).render(TALK) == prompt


@pytest.mark.parametrize("name", families())
def test_every_family_names_its_stop_and_itself(name: str) -> None:
    source = load_source(f"family:{name}", None)
    assert source.form is not None
    assert source.form.stop
    suffix = source.form.assistant.suffix.lstrip()
    assert suffix.startswith(source.form.stop[0]) or name in NO_TURN_END
    assert name in source.description


def test_an_unknown_family_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Did you mean family:smollm2\?"):
        load_source("family:smolm", None)


@pytest.mark.parametrize("spec", ["qwen", "", "template.txt", "xtuners:qwen_chat"])
def test_other_specs_are_usage_errors(spec: str) -> None:
    with pytest.raises(UsageError, match="alpaca"):
        load_source(spec, None)


def test_an_alias_is_its_family_and_no_familys_name() -> None:
    for alias, name in family_aliases().items():
        assert alias not in families()
        assert read_family(alias) == read_family(name)


def test_internlm_is_what_xtuner_trains() -> None:
    trained = load_source("xtuner:internlm_chat", None)
    assert trained.form is not None
    form = load_source("family:internlm", None).form
    assert form is not None
    assert (form.user, form.assistant, form.system) == (
        trained.form.user,
        trained.form.assistant,
        trained.form.system,
    )


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
