"""XTuner v1's templates say what XTuner v1 trains on.

No wheel on PyPI carries XTuner v1, so its own code cannot be run here: the texts below are worked out by hand
from the published source at commit 14a0f0ea (`ChatMessages.get_prompt`, `ChatMsg.get_prompt`,
`process_message` and CHAT_TEMPLATE_MAP), not with anything of Portside's.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from chat_templates import ChatTemplate, Message, analyse_stops, load_source, prove, trainer_templates
from chat_templates.show import print_trainers
from chat_templates.sources.xtuner_v1 import xtuner_v1_names
from checkpoint import Checkpoint
from errors import TemplateError, UsageError
from tests.chat_templates.trainings import check
from tests.checkpoints import edit_json

S, Q1, A1, Q2, A2 = "Be {brief}\n", "Hello {user}", "Hi there.", "two\n lines ", "fin 🙂\n"
TALK: tuple[Message, ...] = (
    {"role": "user", "content": Q1},
    {"role": "assistant", "content": A1},
    {"role": "user", "content": Q2},
    {"role": "assistant", "content": A2},
)
_CHATML = (
    "<|im_start|>user\nHello {user}<|im_end|>\n<|im_start|>assistant\n",
    "Hi there.<|im_end|>\n<|im_start|>user\ntwo\n lines <|im_end|>\n<|im_start|>assistant\n",
    "fin 🙂\n<|im_end|>\n",
)
_CHATML_SYSTEM = ("<|im_start|>system\nBe {brief}\n<|im_end|>\n", "<|im_start|>system\n<|im_end|>\n")
_INTERN_S1 = (
    "<|im_start|>system\n你是书生大模型，英文名是Intern-S1，"
    "是由上海人工智能实验室开发的多模态大语言模型。<|im_end|>\n"
)
_INTERNVL = (
    "<|im_start|>system\n你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位"
    "联合开发的多模态大语言模型。<|im_end|>\n"
)
_LLAMA3 = (
    "<|start_header_id|>user<|end_header_id|>\n\nHello {user}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "Hi there.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\ntwo\n lines <|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "fin 🙂\n<|eot_id|>",
)
_LLAMA3_SYSTEM = (
    "<|start_header_id|>system<|end_header_id|>\n\nBe {brief}\n<|eot_id|>",
    "<|start_header_id|>system<|end_header_id|>\n\n<|eot_id|>",
)
_DEEPSEEK = (
    "<｜User｜>Hello {user}<｜Assistant｜></think>",
    "Hi there.<｜end▁of▁sentence｜><｜User｜>two\n lines <｜Assistant｜></think>",
    "fin 🙂\n<｜end▁of▁sentence｜>",
)
_DEEPSEEK_SYSTEM = ("<｜begin▁of▁sentence｜>Be {brief}\n", "<｜begin▁of▁sentence｜>")
TRAINED = {
    "intern-s1": (_INTERN_S1, *_CHATML_SYSTEM, *_CHATML),
    "internvl-3.5": (_INTERNVL, *_CHATML_SYSTEM, *_CHATML),
    "qwen3-vl": ("", *_CHATML_SYSTEM, *_CHATML),
    "llama3": ("", *_LLAMA3_SYSTEM, *_LLAMA3),
    "qwen3": ("", *_CHATML_SYSTEM, *_CHATML),
    "deepseek-v3": ("", *_DEEPSEEK_SYSTEM, *_DEEPSEEK),
}
"""What begins a sample without a system message, with one and with an empty one; then the rest, cut where the
prompt in front of each of the two answers ends."""


def form_of(name: str) -> ChatTemplate:
    form = load_source(f"xtuner:v1/{name}", None).form
    assert form is not None
    return form


def test_every_template_of_the_registry_is_said_or_refused() -> None:
    assert set(xtuner_v1_names()) == {f"v1/{name}" for name in (*TRAINED, "gpt-oss")}


@pytest.mark.parametrize("name", TRAINED)
def test_the_text_is_the_one_that_xtuner_trains_on(name: str) -> None:
    form = form_of(name)
    *leads, first, second, end = TRAINED[name]
    systems: list[tuple[Message, ...]] = [(), *(({"role": "system", "content": s},) for s in (S, ""))]
    for system, lead in zip(systems, leads, strict=True):
        prompts = [lead + first, lead + first + second]
        check(form, (*system, *TALK), prompts[1] + end, prompts, form.separator)


@pytest.mark.parametrize("name", TRAINED)
def test_the_jinja_and_ollama_are_exact_for_plain_chats(name: str) -> None:
    proof = prove(load_source(f"xtuner:v1/{name}", None), None, ("jinja", "ollama"))
    assert proof.ok
    classes = proof.dialects["jinja"].classes
    assert {key for key, result in classes.items() if result.status == "refused"} <= {"tools"}


def test_the_answer_that_gpt_oss_learns_ends_otherwise_than_past_ones() -> None:
    with pytest.raises(
        TemplateError, match=r"gpt-oss.*learnt with '<\|return\|>' and past .* '<\|end\|>'"
    ) as caught:
        load_source("xtuner:v1/gpt-oss", None)
    assert caught.value.exit_code == 3
    assert "FILE.jinja" in (caught.value.hint or "")


def test_an_answer_keeps_its_text_whatever_is_in_it() -> None:
    answer = {"role": "assistant", "content": "<think>\nso\n</think>\n\nyes "}
    talk = [TALK[0], answer, TALK[2]]
    assert "<|im_start|>assistant\n<think>\nso\n</think>\n\nyes <|im_end|>\n" in form_of("qwen3").render(talk)


# tools of qwen3-vl

WEATHER = {"type": "function", "function": {"name": "weather", "description": "Wetter für °C"}}
TIME = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}
_TOOLS = """

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type": "function", "function": {"name": "weather", "description": "Wetter für °C"}}
{"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
"""
_CALLED = """\
<|im_start|>user
Hot?<|im_end|>
<|im_start|>assistant
{said}
<tool_call>
{"name": "weather", "arguments": {"city": "Köln", "days": [1, 2]}}
</tool_call>
<tool_call>
{"name": "time", "arguments": {}}
</tool_call><|im_end|>
<|im_start|>user
<tool_response>
21
</tool_response><|im_end|>
<|im_start|>assistant
<|im_start|>user
<tool_response>
noon
</tool_response><|im_end|>
<|im_start|>assistant
"""


@pytest.mark.parametrize("said", ["", "I look it up."])
@pytest.mark.parametrize("system", [None, "", "Be brief."])
def test_qwen3_vl_writes_tools_as_xtuner_does(said: str, system: str | None) -> None:
    calls = [
        {"function": {"name": "weather", "arguments": {"city": "Köln", "days": [1, 2]}}},
        {"function": {"name": "time", "arguments": {}}},
    ]
    talk: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    talk += [
        {"role": "user", "content": "Hot?"},
        {"role": "assistant", "content": said, "tool_calls": calls},
        {"role": "tool", "content": "21"},
        {"role": "tool", "content": "noon"},
    ]
    trained = "<|im_start|>system\n" + (system or "") + _TOOLS + _CALLED.replace("{said}", said)
    form = form_of("qwen3-vl")
    assert form.render(talk, tools=[WEATHER, TIME]) == trained
    answered = [*talk, {"role": "assistant", "content": "21 at noon"}]
    whole = form.render(answered, tools=[WEATHER, TIME], add_generation_prompt=False)
    assert whole + form.separator == trained + "21 at noon<|im_end|>\n"


def test_tools_of_qwen3_vl_are_exact_in_ollama() -> None:
    proof = prove(load_source("xtuner:v1/qwen3-vl", None), None, ("ollama",))
    assert proof.dialects["ollama"].classes["tools"].status == "exact"


# checkpoints


@pytest.mark.parametrize("name", ["llama3", "qwen3", "deepseek-v3"])
def test_no_bos_is_written_for_a_tokenizer_that_adds_one(
    name: str, make_checkpoint: Callable[..., Path]
) -> None:
    path = make_checkpoint()
    edit_json(path / "tokenizer_config.json", bos_token="<|endoftext|>", add_bos_token=True)
    checkpoint = Checkpoint.open(path)
    assert checkpoint.tokenizer.adds_bos
    source = load_source(f"xtuner:v1/{name}", checkpoint)
    assert source.render([TALK[0]]) == TRAINED[name][3]
    assert prove(source, checkpoint, ("ollama",)).ok


def test_the_turns_end_is_a_stop(sample: Path) -> None:
    checkpoint = Checkpoint.open(sample)
    assert analyse_stops(load_source("xtuner:v1/qwen3", checkpoint), checkpoint).strings[0] == "<|im_end|>"


# names


def test_names_of_v1_are_told_apart_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for wrong in ("v1/qwen_3", "qwen3", "v1/qwen3.0"):
        with pytest.raises(UsageError, match=r"Did you mean .*xtuner:v1/qwen3\b"):
            load_source(f"xtuner:{wrong}", None)
    with pytest.raises(TemplateError, match=r"Cannot read v1/mine\.py"):
        load_source("xtuner:v1/mine.py", None)
    run = tmp_path / "v1" / "run"
    run.mkdir(parents=True)
    (run / "config.py").write_text("prompt_template = dict(INSTRUCTION='{input}', SUFFIX_AS_EOS=True)")
    source = load_source("xtuner:v1/run", None)
    assert source.form is not None
    assert source.form.user.prefix == ""


def test_the_trainers_names_are_listed() -> None:
    names = trainer_templates()
    assert {"qwen_chat", "v1/qwen3-vl"} <= set(names["xtuner"])
    assert "deepseek3" in names["llamafactory"]
    assert json.loads(json.dumps(names)).keys() == {"xtuner", "llamafactory"}
    out = io.StringIO()
    print_trainers(names, Console(file=out, width=80))
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert "v1/intern-s1" in out.getvalue()
