"""What is written for Ollama is exact when Go itself runs it: public templates, all plain chats."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from chat_templates import DIALECTS, DialectRefused, facts_of, prove
from chat_templates.conversations import cases_of
from chat_templates.dialects.ollama import collate
from chat_templates.sources import TemplateSource, source_of_jinja
from errors import TemplateError
from tests.chat_templates.corpus import WHOLE, original, templates
from tests.chat_templates.go_oracle.oracle import go_oracle

NOW = datetime.datetime(2028, 2, 9, 12, 0)
WIDER = (
    "mistralai-Mistral-7B-Instruct-v0.3",
    "Neelectric-Ministral-8B-Instruct-2410_SFT_mathv00.01",
    "ai21labs-AI21-Jamba-Reasoning-3B",
    "microsoft-Phi-3-medium-128k-instruct",
    "llm-jp-llm-jp-3-1.8b-instruct",
    "internlm-Intern-S1-mini",
    "trl-internal-testing-tiny-Cohere2ForCausalLM",
    "deepseek-ai-DeepSeek-Coder-V2-Instruct-0724",
    "meta-llama-Llama-3.2-3B-Instruct",
    "ibm-granite-granite-3.1-8b-instruct",
    "openai-gpt-oss-120b",
    "HuggingFaceTB-SmolLM3-3B@3e0e27",
    "HuggingFaceTB-SmolVLM-256M-Instruct",
    "tencent-Hy-Embodied-VLM-1.0",
)
"""Templates that need more than texts around every message."""


def differences(source: TemplateSource) -> list[str]:
    """Return the plain chats whose prompt in Go is another than the training prompt."""
    source = replace(source, now=NOW)
    try:
        text = DIALECTS["ollama"].write(source, None, facts_of(source, None, gguf=True))
    except DialectRefused:
        return []
    found = []
    for case in cases_of("chat"):
        try:
            truth = source.render(case.messages)
        except TemplateError:
            continue
        system, merged = collate(case.messages)
        data = {"System": system, "Response": ""}
        structs = [{"Role": message["role"], "Content": message["content"]} for message in merged]
        ran = go_oracle().render(text, data, structs, str(NOW.date()))
        if ran is None or ran.decode() != truth:
            found.append(case.name)
    return found


PARTS = 8 if WHOLE else 1
"""In how many tests all templates are taken, so that several processes share them."""
SOME = WIDER if WHOLE else WIDER[::4]


@pytest.mark.parametrize("part", range(PARTS))
def test_go_writes_the_training_prompts(part: int) -> None:
    go_oracle()
    chosen = {**templates(), **{name: original(name) for name in SOME}}
    wrong = {}
    for name, jinja in list(chosen.items())[part::PARTS]:
        source = source_of_jinja(name, "a public template", jinja, ("<s>", "</s>"), name)
        if cases := differences(source):
            wrong[name] = cases
    assert not wrong


@pytest.mark.parametrize("name", SOME)
def test_the_wider_forms_are_exact(name: str) -> None:
    source = source_of_jinja(name, "a public template", original(name), ("<s>", "</s>"), name)
    assert prove(source, None, ("ollama",)).dialects["ollama"].ok
