"""The library is listed whole, and a template is recognised by what it says."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from chat_templates import families, library, load_source, match_families
from chat_templates.show import print_families, print_matches
from chat_templates.sources.load import source_of_jinja
from chat_templates.sources.source import TemplateSource
from tests.chat_templates.corpus import original


def jinja(text: str, bos: str | None = None, eos: str | None = "</s>") -> TemplateSource:
    return source_of_jinja("x.jinja", "the Jinja template x.jinja", text, (bos, eos), "x")


def names(source: TemplateSource) -> list[str]:
    return [match.family.name for match in match_families(source).equal]


def test_the_library_names_every_family_with_its_stops() -> None:
    found = library()
    assert tuple(family.name for family in found) == families()
    assert all(family.description and family.stop for family in found)
    aliases = {alias for family in found for alias in family.aliases}
    wanted = "qwen1.5 qwen2 qwen2.5 qwen3 internlm internlm2 internlm2.5 internlm3 deepseek-v2 deepseek-v3 "
    wanted += "deepseek-r1 deepseek-r1-distill-qwen deepseek-r1-distill-llama llama2 llama3 llama3.1 mixtral "
    wanted += "mistral-v1 mistral-v3 mistral-nemo gemma gemma2 gemma3 phi3 phi3.5 phi4 yi baichuan "
    wanted += "baichuan2 chatglm3 glm4 zephyr vicuna alpaca chatml smollm2 minicpm command-r"
    assert set(wanted.split()) <= {*families(), *aliases}


@pytest.mark.parametrize(
    ("name", "bos", "eos", "family"),
    [
        ("Qwen-Qwen2.5-7B-Instruct", None, "<|im_end|>", "qwen2.5"),
        ("Qwen-Qwen3-0.6B", None, "<|im_end|>", "qwen3"),
        ("HuggingFaceTB-SmolLM2-135M-Instruct", "<|im_start|>", "<|im_end|>", "smollm2"),
        ("mistralai-Mistral-7B-Instruct-v0.2", "<s>", "</s>", "mistral"),
        ("NousResearch-Meta-Llama-3-8B-Instruct", "<|begin_of_text|>", "<|eot_id|>", "llama3"),
        ("microsoft-phi-4", None, "<|im_end|>", "phi4"),
    ],
)
def test_a_public_template_is_recognised(name: str, bos: str | None, eos: str, family: str) -> None:
    assert family in names(jinja(original(name), bos, eos))


@pytest.mark.parametrize("family", families())
def test_every_family_is_itself(family: str) -> None:
    match = next(
        match
        for match in match_families(load_source(f"family:{family}", None)).equal
        if match.family.name == family
    )
    assert match.differing == ()


def test_what_differs_beyond_plain_chats_is_named() -> None:
    found = match_families(jinja(original("Qwen-Qwen2.5-7B-Instruct"), None, "<|im_end|>"))
    match = next(match for match in found.equal if match.family.name == "qwen2.5")
    assert "tools" in match.differing
    assert "chat" not in match.differing


def test_a_template_that_no_family_is_gets_the_nearest_and_the_difference() -> None:
    text = load_source("family:smollm2", None).jinja.replace("named SmolLM", "called SmolLM")
    matches = match_families(jinja(text, None, "<|im_end|>"))
    assert matches.equal == ()
    assert matches.nearest is not None
    assert matches.nearest.difference is not None
    assert 0 < matches.nearest.same < matches.nearest.of
    out = io.StringIO()
    print_matches(matches, Console(file=out, width=120))
    assert "nearest" in out.getvalue()
    assert f"family:{matches.nearest.family.name}" in out.getvalue()


def test_a_template_that_is_like_nothing_has_no_nearest() -> None:
    matches = match_families(jinja("{% for m in messages %}={{ m.content }}={% endfor %}"))
    assert (matches.equal, matches.nearest) == ((), None)
    assert matches.as_json()["matches"] == []


def test_the_list_fits_a_narrow_terminal() -> None:
    out = io.StringIO()
    print_families(library(), Console(file=out, width=80))
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert "smollm2" in out.getvalue()
