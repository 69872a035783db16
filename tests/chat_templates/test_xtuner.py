"""XTuner's templates say what XTuner's own code trains on; a user's own are read without being run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chat_templates import ChatTemplate, TemplateSource, analyse_stops, inspect_template, load_source, prove
from chat_templates.sources.trainers import Tokens, source_of
from chat_templates.sources.xtuner import load_xtuner, xtuner_form
from chat_templates.trainers import facts
from chat_templates.trainers.refresh import xtuner_toml
from checkpoint import Checkpoint
from errors import TemplateError, UsageError
from tests.chat_templates.trainer_wheels import (
    Characters,
    Qwen2TokenizerFast,
    xtuner_templates,
    xtuner_text,
)
from tests.chat_templates.trainings import check, conversations

TOKENS = Tokens("<s>", "</s>", known=True)
NAMES = tuple(facts("xtuner")["templates"])
DEEPSEEK_QWEN = {
    "SYSTEM": "{system}\n\n",
    "INSTRUCTION": "<｜User｜>{input}<｜Assistant｜>",
    "SUFFIX": "<｜end▁of▁sentence｜>",
    "SUFFIX_AS_EOS": True,
    "SEP": "\n",
    "STOP_WORDS": ["<｜end▁of▁sentence｜>"],
}


def form_of(name: str, bos: str = "<s>") -> ChatTemplate:
    return xtuner_form(name, facts("xtuner")["templates"][name], bos, TOKENS)


def form_in(what: str) -> ChatTemplate:
    """Return the form of a file; without a checkpoint there is no BOS."""
    form = load_xtuner(what, None).form
    assert form is not None
    return form


def check_all(form: ChatTemplate, fields: dict[str, Any], tokenizer: Characters) -> None:
    bos = "" if isinstance(tokenizer, Qwen2TokenizerFast) else "<s>"
    for messages in conversations(system="SYSTEM" in fields):
        trained, prompts = xtuner_text(fields, messages, tokenizer)
        end = form.separator
        if not fields.get("SUFFIX_AS_EOS"):
            end = end.removesuffix(bos)  # BOS begins the next turn, which is not there
        check(form, messages, trained, prompts, end)


def test_there_are_27_names() -> None:
    assert set(NAMES) == set(xtuner_templates())
    assert len(NAMES) == 27


@pytest.mark.parametrize("name", NAMES)
def test_the_text_is_the_one_that_xtuner_trains_on(name: str) -> None:
    check_all(form_of(name), xtuner_templates()[name], Characters("<s>", "</s>"))


@pytest.mark.parametrize("name", ["qwen_chat", "zephyr", "gemma"])
def test_a_qwen_tokenizer_gets_no_bos(name: str) -> None:
    check_all(form_of(name, bos=""), xtuner_templates()[name], Qwen2TokenizerFast("<s>", "</s>"))


def test_a_template_without_system_refuses_one() -> None:
    with pytest.raises(TemplateError, match="does not accept a system message"):
        form_of("minicpm").render([{"role": "system", "content": "Hi"}, {"role": "user", "content": "Hi"}])


def test_a_template_that_counts_the_questions_says_their_numbers() -> None:
    form = form_of("chatglm2")
    prompt = form.render([*CHAT, {"role": "user", "content": "C"}])
    assert prompt == "<s>[Round 1]\n\n问：A\n\n答：B</s>\n\n<s>[Round 2]\n\n问：C\n\n答："
    proof = prove(source_of("xtuner:chatglm2", "chatglm2", form, TOKENS), None)
    assert proof.dialects["ollama"].ok
    assert "numbered" in (proof.dialects["lmdeploy"].refusal or "")


CHAT = ({"role": "user", "content": "A"}, {"role": "assistant", "content": "B"})


@pytest.mark.parametrize("name", NAMES)
def test_the_jinja_is_exact_for_plain_chats(name: str) -> None:
    source = source_of(f"xtuner:{name}", name, form_of(name), TOKENS)
    assert prove(source, None, ("jinja",)).dialects["jinja"].exact


def test_the_data_file_is_what_the_wheel_says() -> None:
    xtuner_templates()  # skips without the wheel
    assert facts("xtuner") == tomllib.loads(xtuner_toml())


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Did you mean xtuner:qwen_chat") as caught:
        load_source("xtuner:qwen_chta", None)
    assert caught.value.exit_code == 2
    for nothing in ("", "#qwen_chat", "x" * 5000):
        with pytest.raises(UsageError, match="XTuner has no chat template"):
            load_xtuner(nothing, None)


def test_eos_must_be_known_where_the_text_has_it() -> None:
    with pytest.raises(TemplateError, match="EOS token"):
        load_source("xtuner:vicuna", None)


# checkpoints


def test_the_mismatch_with_the_checkpoints_own_template_is_found(sample: Path) -> None:
    checkpoint = Checkpoint.open(sample)
    source = load_source("xtuner:internlm2_chat", checkpoint)
    codes = {finding.code: finding for finding in inspect_template(checkpoint, source)}
    assert "xtuner:internlm2_chat" in codes["template-differs"].message
    assert analyse_stops(source, checkpoint).strings[0] == "<|im_end|>"


def test_a_chatglm_tokenizer_has_two_tokens_in_the_place_of_bos(make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint()
    config = path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "ChatGLMTokenizer"}))
    form = load_xtuner("chatglm3", Checkpoint.open(path)).form
    assert form is not None
    assert form.bos == ""  # this vocabulary ends before the two ids


# files


def written(tmp_path: Path, text: str, name: str = "mine.py") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


OWN = """
raise SystemExit("this file is never run")
from xtuner.utils import PROMPT_TEMPLATE
END = "<｜end▁of▁sentence" "｜>"
PROMPT_TEMPLATE["deepseek_qwen"] = dict(
    SYSTEM="{system}" + "\\n\\n",
    INSTRUCTION=("<｜User｜>{input}" "<｜Assistant｜>"),
    SUFFIX=END,
    SUFFIX_AS_EOS=True,
    SEP="\\n",
    STOP_WORDS=[END],
)
"""
SPELLINGS = {
    "key": OWN,
    "attribute": OWN.replace('PROMPT_TEMPLATE["deepseek_qwen"]', "PROMPT_TEMPLATE.deepseek_qwen"),
    "variable": OWN.replace('PROMPT_TEMPLATE["deepseek_qwen"]', "deepseek_qwen"),
    "update": OWN.replace(
        'PROMPT_TEMPLATE["deepseek_qwen"] = dict(', "PROMPT_TEMPLATE.update(deepseek_qwen=dict("
    )
    + ")",
    "registry": "from mmengine.config import ConfigDict\n"
    + f"PROMPT_TEMPLATE = ConfigDict(deepseek_qwen=dict(**{DEEPSEEK_QWEN!r}))",
    "literal": f"PROMPT_TEMPLATE: dict = {{'deepseek_qwen': {DEEPSEEK_QWEN!r}}}",
    "config": f"{OWN}\nprompt_template = PROMPT_TEMPLATE.deepseek_qwen\nmax_length = 2048",
    "config's own": f"prompt_template = {DEEPSEEK_QWEN!r}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_template_of_the_users_own_is_read_however_it_is_written(spelling: str, tmp_path: Path) -> None:
    path = written(tmp_path, SPELLINGS[spelling])
    check_all(form_in(str(path)), DEEPSEEK_QWEN, Qwen2TokenizerFast(None, "<|endoftext|>"))


def test_bos_of_a_deepseek_distill_stands_once_in_front() -> None:
    form = xtuner_form("deepseek_qwen", DEEPSEEK_QWEN, "<s>", TOKENS)
    check_all(form, DEEPSEEK_QWEN, Characters("<s>", "</s>"))
    assert form.stop == ("<｜end▁of▁sentence｜>",)
    assert form.render([{"role": "user", "content": "Hi"}]) == "<s><｜User｜>Hi<｜Assistant｜>"


CONFIG = """
from xtuner.utils import PROMPT_TEMPLATE, SYSTEM_TEMPLATE
prompt_template = PROMPT_TEMPLATE.minicpm3
SYSTEM = SYSTEM_TEMPLATE.alpaca
if SYSTEM:
    SYSTEM = ""
"""
USES = {
    "name": CONFIG,
    "dumped": "prompt_template = 'xtuner.utils.PROMPT_TEMPLATE.minicpm3'",
    "argument": "from xtuner.utils import *\ntrain = dict(dataset=dict(template_map_fn=dict("
    "type=template_map_fn_factory, template=PROMPT_TEMPLATE.minicpm3)))",
}


@pytest.mark.parametrize("use", USES)
def test_a_config_names_its_template(use: str, tmp_path: Path) -> None:
    source = load_xtuner(str(written(tmp_path, USES[use])), None)
    assert source.form is not None
    assert source.form.name == "minicpm3"
    assert "minicpm3" in source.description


def test_a_run_directory_holds_one_config(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="0 Python files"):
        load_xtuner(str(tmp_path), None)
    written(tmp_path, CONFIG)
    assert form_in(str(tmp_path)).name == "minicpm3"
    written(tmp_path, CONFIG, "other.py")
    with pytest.raises(TemplateError, match=r"2 Python files: mine\.py, other\.py"):
        load_xtuner(str(tmp_path), None)


def test_several_templates_are_chosen_from_by_name(tmp_path: Path) -> None:
    path = written(
        tmp_path, f"A = {DEEPSEEK_QWEN!r}\nqwen_chat = dict(INSTRUCTION='{{input}}', SUFFIX_AS_EOS=True)"
    )
    with pytest.raises(TemplateError, match=r"2 templates.*xtuner:.*#NAME, with one of A, qwen_chat\."):
        load_xtuner(str(path), None)
    assert form_in(f"{path}#A").stop == ("<｜end▁of▁sentence｜>",)
    assert form_in(f"{path}#qwen_chat").user.prefix == ""
    with pytest.raises(TemplateError, match="no XTuner template 'B'"):
        load_xtuner(f"{path}#B", None)


BAD = {
    "t = dict(INSTRUCTION=": "not Python",
    "x = 1": "neither defines",
    "\0": "not Python",
    "(" * 5000: "not Python",
    "x" + " + x" * 20000: "not Python|neither defines",
    "prompt_template = make()": r"a call of make\(\) in line 1",
    "t = dict(INSTRUCTION=make(), SYSTEM='')": r"INSTRUCTION .* a call of make\(\) in line 1",
    "t = dict(INSTRUCTION=f'{x}')": "an f-string in line 1",
    "t = dict(INSTRUCTION='{input}{input}')": "must hold {input} once",
    "t = dict(INSTRUCTION='{input:>9}')": "must hold {input} once",
    "t = dict(INSTRUCTION='{input')": "no format string",
    "t = dict(INSTRUCTION='')": "has no INSTRUCTION",
    "t = dict(INSTRUCTION=3)": "must be a text",
    "t = dict(INSTRUCTION='{input}', SEP=None)": "SEP .* must be a text",
    "t = dict(INSTRUCTION='{input}', STOP_WORDS=[1])": "a list of texts",
    "t = dict(INSTRUCTION='{input}', SYSTEM='fixed')": "must hold {system} once",
    "a = 'x' * 9\nt = dict(INSTRUCTION='{input}' + a)": "an expression in line 1",
    "t = dict(INSTRUCTION='{input}')\nif t:\n    t = 1": "neither defines",
    "f(type=template_map_fn_factory, template=x" + " + x" * 900 + ")": "neither|nested|the name x|not Python",
    "prompt_template = PROMPT_TEMPLATE.qwen_chat": "the name PROMPT_TEMPLATE in line 1",
    "a = dict()\na['a'] = a\nt = dict(INSTRUCTION=a, x=a)": "must be a text",
    "a = 'aaaaaaaaaaaaaaaa'\n" + "a = a + a\n" * 40 + "t = dict(INSTRUCTION='{input}' + a)": "an expression",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_what_cannot_be_read_is_refused_in_words(text: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(TemplateError, match=BAD[text]):
        load_xtuner(str(path), None)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="Cannot read"):
        load_xtuner(str(tmp_path / "none.py"), None)
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'")
    with pytest.raises(TemplateError, match="not UTF-8"):
        load_xtuner(str(tmp_path / "latin.py"), None)


def test_a_brace_that_is_doubled_is_one_brace() -> None:
    fields = {"INSTRUCTION": "{{x}} {input} {{y}}", "SUFFIX": "{", "SUFFIX_AS_EOS": True}
    form = xtuner_form("braces", fields, "", TOKENS)
    check_all(form, fields, Qwen2TokenizerFast(None, "</s>"))


def test_a_source_stands_for_its_training_text() -> None:
    source: TemplateSource = load_source("xtuner:qwen_chat", None)
    assert (source.origin, source.spec) == ("form", "xtuner:qwen_chat")
    assert "XTuner 0.2.0 trains on" in source.description
