"""The proof finds what is exact, what is refused and why, and what the template never had."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from rich.console import Console

from chat_templates import DIALECTS, DialectFacts, Difference, TemplateSource, load_source, prove
from chat_templates.conversations import CLASSES, cases_of
from chat_templates.dialects.jinja import JinjaDialect
from chat_templates.show import print_difference, print_proof, visible
from chat_templates.sources import families, source_of_jinja
from chat_templates.stops import Stops
from chat_templates.template import Message
from checkpoint import Checkpoint
from errors import TemplateError, UsageError
from tests.chat_templates.corpus import original


def status(source: TemplateSource, dialect: str = "jinja") -> dict[str, str]:
    return {name: r.status for name, r in prove(source, None, (dialect,)).dialects[dialect].classes.items()}


def of_corpus(name: str, bos: str = "<s>", eos: str = "</s>") -> TemplateSource:
    return source_of_jinja(f"{name}.jinja", name, original(name), (bos, eos), name)


@pytest.mark.parametrize("name", families())
def test_every_family_is_exact_in_jinja_and_for_chats_in_ollama(name: str) -> None:
    proof = prove(load_source(f"family:{name}", None), None, ("jinja", "ollama"))
    classes = proof.dialects["jinja"].classes
    refused = {key for key, result in classes.items() if result.status == "refused"}
    assert refused == ({"prefill"} if name == "llama2" else set())  # trims, and puts a blank behind an answer
    assert proof.dialects["ollama"].ok, proof.dialects["ollama"]


def test_the_sample_is_exact_in_all_dialects(sample: Path) -> None:
    checkpoint = Checkpoint.open(sample)
    proof = prove(load_source("checkpoint", checkpoint), checkpoint)
    assert proof.ok
    assert {name: d.classes["unicode"].status for name, d in proof.dialects.items()} == dict.fromkeys(
        ("jinja", "gguf", "ollama", "lmdeploy"), "exact"
    )


def test_a_jinja_of_the_source_is_exact_everywhere() -> None:
    results = status(of_corpus("Qwen-Qwen2.5-7B-Instruct"))
    assert results == {**dict.fromkeys(CLASSES, "exact"), "thinking": "absent"}


def test_tools_are_exact_where_the_dialect_can_say_them() -> None:
    source = of_corpus("Qwen-Qwen2.5-7B-Instruct")
    assert status(source, "ollama")["tools"] == "exact"
    assert status(source, "lmdeploy")["tools"] == "refused"


def test_tools_that_cannot_be_taken_apart_are_refused_with_the_reason() -> None:
    result = prove(of_corpus("Qwen-Qwen3.5-0.8B"), None, ("ollama",)).dialects["ollama"].classes["tools"]
    assert result.status == "refused"
    assert "cannot be taken apart" in str(result.reason)


def test_tools_are_absent_where_the_template_ignores_them() -> None:
    assert status(load_source("family:chatml", None), "ollama")["tools"] == "absent"


@pytest.mark.parametrize("name", ["HuggingFaceTB-SmolVLM-256M-Instruct", "MiniMaxAI-MiniMax-VL-01"])
def test_templates_that_read_parts_are_exact_in_jinja_and_in_ollama(name: str) -> None:
    source = of_corpus(name)
    assert source.typed_content
    proof = prove(source, None, ("jinja", "ollama"))
    assert proof.dialects["jinja"].exact
    assert proof.dialects["ollama"].ok
    assert proof.dialects["ollama"].classes["prefill"].status == "exact"
    assert status(source, "ollama")["unicode"] == "exact"


@pytest.mark.parametrize(
    "name", ["meta-llama-Llama-3.2-3B-Instruct", "openai-gpt-oss-120b", "ibm-granite-granite-3.1-8b-instruct"]
)
def test_dated_templates_are_exact_in_ollama_and_refused_by_lmdeploy(name: str) -> None:
    proof = prove(of_corpus(name), None)
    assert proof.dialects["jinja"].exact
    assert proof.dialects["ollama"].ok
    assert "today's date" in (proof.dialects["lmdeploy"].refusal or "").lower()


def test_a_case_that_the_template_refuses_asks_nothing_of_a_dialect() -> None:
    source = of_corpus("google-gemma-2-2b-it", "<bos>", "<eos>")
    result = prove(source, None, ("jinja",)).dialects["jinja"].classes["chat"]
    assert result.status == "exact"
    assert 0 < result.cases < len(cases_of("chat"))
    assert status(source)["repeated"] == "absent"


def test_a_dialect_that_cannot_be_written_says_why_for_every_class() -> None:
    source = of_corpus("kakaocorp-kanana-safeguard-8b")
    dialect = prove(source, None, ("ollama",)).dialects["ollama"]
    assert (dialect.text, dialect.ok) == (None, False)
    assert "once each" in (dialect.refusal or "")
    assert dialect.classes["chat"].reason == dialect.refusal


class _Careless:
    """A dialect that forgets the line feed after the generation prompt."""

    name = "jinja"
    reads: Literal["checkpoint", "gguf"] = "checkpoint"
    filename = "x"

    def write(self, source: TemplateSource, stops: Stops | None, facts: DialectFacts) -> str:
        return source.jinja

    def render(self, text: str, messages: Sequence[Message], facts: DialectFacts, **options: Any) -> str:
        if messages[-1]["role"] == "assistant":
            raise TemplateError("It cannot continue.")
        return JinjaDialect().render(text, messages, facts, **options).rstrip()


def test_the_first_difference_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DIALECTS, "jinja", _Careless())
    source = load_source("family:chatml", None)
    result = prove(source, None, ("jinja",)).dialects["jinja"].classes
    difference = result["chat"].difference
    assert difference is not None
    assert (difference.case, difference.index) == ("1 turn", len(difference.expected) - 1)
    assert "character" in (result["chat"].reason or "")
    assert result["prefill"].reason == "It cannot continue (a begun answer)."


def test_an_unknown_dialect_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="jinja, gguf, ollama, lmdeploy"):
        prove(load_source("family:chatml", None), None, ("vllm",))


def test_the_proof_is_json() -> None:
    proof = prove(load_source("family:chatml", None), None)
    data = json.loads(json.dumps(proof.as_json({"jinja": Path("a/chat_template.jinja")})))
    assert data["dialects"]["jinja"]["file"] == "a/chat_template.jinja"
    assert data["dialects"]["ollama"]["file"] is None
    assert data["dialects"]["ollama"]["classes"]["repeated"]["status"] == "refused"
    assert set(data["dialects"]["lmdeploy"]["classes"]) == set(CLASSES)


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_suite_has_distinct_names_and_is_for_its_class(class_name: str) -> None:
    form = load_source("family:chatml", None).form
    cases = cases_of(class_name, form)
    assert len({case.name for case in cases}) == len(cases) > 3
    assert all(case.continue_final_message == (class_name == "prefill") for case in cases)
    if class_name == "unicode":
        assert any("<|im_end|>" in message["content"] for case in cases for message in case.messages)


def test_the_table_and_the_difference_are_readable() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    print_proof(prove(load_source("family:chatml", None), None), console)
    console.file.close()
    text = console.export_text()
    assert "exact" in text
    assert "absent" in text
    assert "Ollama merges" in text


def test_a_difference_marks_the_same_place_in_both_prompts() -> None:
    import io

    console = Console(width=200, file=io.StringIO())
    print_difference(Difference("x", "a\nb [c]\u200d", "a\nb", 3), console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines == ["  training a⏎b·[c]<U+200D>", "   dialect a⏎b∎"]


def test_everything_unseen_is_made_visible() -> None:
    assert visible("a\u3000\x00\t\r é😊") == "a<U+3000><U+0000>⇥␍·é😊"


MakeCheckpoint = Callable[..., Path]


def test_a_bos_that_the_tokenizer_adds_is_part_of_the_proof(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = Checkpoint.open(make_checkpoint())
    source = replace(load_source("family:internlm2", checkpoint), spec="x")
    proof = prove(source, checkpoint, ("jinja", "ollama"))
    assert proof.dialects["ollama"].ok
