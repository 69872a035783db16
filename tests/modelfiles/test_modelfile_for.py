"""The Modelfile of a real checkpoint, and what lint says of Modelfiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chat_templates import analyse_stops, load_source, prove
from chat_templates.dialects.gotemplate import GoTemplate
from chat_templates.dialects.ollama import OllamaDialect
from checkpoint import Checkpoint
from errors import TemplateError
from modelfiles import CONTEXT, Modelfile, lint, modelfile_for, parse, write


def test_the_sample_gets_a_modelfile_that_says_everything(sample: Path) -> None:
    checkpoint = Checkpoint.open(sample)
    source = load_source("checkpoint", checkpoint)
    stops, proof = analyse_stops(source, checkpoint), prove(source, checkpoint, ["ollama"])
    modelfile = modelfile_for(checkpoint, source, stops, proof, Path("out/SmolLM2-Q8_0.gguf"))
    assert modelfile.from_ == "./SmolLM2-Q8_0.gguf"
    assert modelfile.template == proof.dialects["ollama"].text
    assert "<|im_end|>" in modelfile.values("stop")
    assert modelfile.values("num_ctx") == (min(checkpoint.config.context_length, CONTEXT),)
    assert modelfile.system is not None
    assert "SmolLM" in modelfile.system
    assert lint(modelfile) == ()
    assert parse(write(modelfile)) == modelfile


def test_the_template_still_renders_after_the_grammar(sample: Path) -> None:
    checkpoint = Checkpoint.open(sample)
    source = load_source("checkpoint", checkpoint)
    proof = prove(source, checkpoint, ["ollama"])
    modelfile = modelfile_for(checkpoint, source, analyse_stops(source, checkpoint), proof, "./x.gguf")
    template = parse(write(modelfile)).template or ""
    messages = [{"role": "user", "content": "Hello\u3000there"}]
    from chat_templates.proof import facts_of

    assert OllamaDialect().render(
        template, messages, facts_of(source, checkpoint, gguf=True)
    ) == source.render(messages)


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("smollm2", ["Every version of Ollama renders prompts with the TEMPLATE below"]),
        ("qwen3-thinking", ["Every version of Ollama"]),
    ],
)
def test_the_comments_say_which_template_ollama_uses(sample: Path, family: str, words: list[str]) -> None:
    checkpoint = Checkpoint.open(sample)
    source = load_source(f"family:{family}", checkpoint)
    proof = prove(source, checkpoint, ["gguf", "ollama"])
    made = modelfile_for(checkpoint, source, analyse_stops(source, checkpoint), proof, "./x.gguf")
    comments = [line for line in write(made).splitlines() if line.startswith("# ")]
    said = " ".join(comments).replace("# ", "")
    for text in (*words, "proven exact for: chat"):
        assert text in said
    assert parse(write(made)) == made


def test_the_comments_say_when_the_gguf_has_more(sample: Path) -> None:
    """A Jinja with tools that the Go template cannot say: Ollama 0.30 takes the GGUF's."""
    checkpoint = Checkpoint.open(sample)
    source = load_source("family:smollm2", checkpoint)
    proof = prove(source, checkpoint, ["gguf", "ollama"])
    gguf = replace(proof.dialects["gguf"], text="{% if tools %}{% endif %}")
    proof = replace(proof, dialects={**proof.dialects, "gguf": gguf})
    made = modelfile_for(checkpoint, source, analyse_stops(source, checkpoint), proof, "./x.gguf")
    assert len(made.notes) == 2
    assert "Ollama before 0.30" in made.notes[0]
    assert "NOT exact for: repeated" in made.notes[0]
    assert (
        "because it mentions tools and the TEMPLATE does not. It is proven exact for: chat" in made.notes[1]
    )


def test_a_refused_template_is_an_error_with_its_reason(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(make_checkpoint())
    odd = tmp_path / "odd.jinja"
    odd.write_text("{{ messages | length }}{% for m in messages %}{{ m.content | upper }}{% endfor %}")
    source = load_source(str(odd), checkpoint)
    proof = prove(source, checkpoint, ["ollama"])
    with pytest.raises(TemplateError, match="Ollama template"):
        modelfile_for(checkpoint, source, analyse_stops(source, checkpoint), proof, "./x.gguf")


def test_a_stop_that_ollama_would_change_is_refused(make_checkpoint: Callable[..., Path]) -> None:
    checkpoint = Checkpoint.open(make_checkpoint())
    source = load_source("family:chatml", checkpoint)
    proof = prove(source, checkpoint, ["ollama"])
    stops = replace(analyse_stops(source, checkpoint), strings=("end\u3000",))
    with pytest.raises(TemplateError, match="PARAMETER stop"):
        modelfile_for(checkpoint, source, stops, proof, "./x.gguf", allow_inexact=True)


def test_a_chosen_context_counts(make_checkpoint: Callable[..., Path]) -> None:
    checkpoint = Checkpoint.open(make_checkpoint())
    source = load_source("family:chatml", checkpoint)
    proof = prove(source, checkpoint, ["ollama"])
    stops = analyse_stops(source, checkpoint)
    made = modelfile_for(checkpoint, source, stops, proof, "./x.gguf", context=77, allow_inexact=True)
    assert made.values("num_ctx") == (77,)
    GoTemplate(made.template or "")


GOOD = Modelfile("./x.gguf", template="{{ .Prompt }}", parameters=(("stop", "</s>"), ("num_ctx", 4096)))


@pytest.mark.parametrize(
    ("modelfile", "codes"),
    [
        (GOOD, []),
        (replace(GOOD, template=None), ["missing-template"]),
        (replace(GOOD, parameters=(("num_ctx", 4096),)), ["missing-stop"]),
        (replace(GOOD, parameters=(("stop", "</s>"),)), ["num-ctx-missing"]),
        (replace(GOOD, parameters=(*GOOD.parameters, ("mirostat", "1"))), ["deprecated"]),
        (replace(GOOD, parameters=(*GOOD.parameters, ("temprature", "1"))), ["unknown-parameter"]),
        (replace(GOOD, system="a\u00a0b"), ["unprintable-rune"]),
        (replace(GOOD, template="<s>{{ .Prompt }}"), ["literal-bos"]),
    ],
)
def test_lint(modelfile: Modelfile, codes: list[str]) -> None:
    found = lint(modelfile, bos_token="<s>", adds_bos=True)
    assert [finding.code for finding in found] == codes
    assert all(finding.fix for finding in found)


def test_a_bos_the_tokenizer_does_not_add_may_be_written() -> None:
    assert lint(replace(GOOD, template="<s>{{ .Prompt }}"), bos_token="<s>") == ()
