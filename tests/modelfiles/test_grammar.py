"""Writing and reading Modelfiles: what is written is read back, what would change is refused."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chat_templates.modelfile import PARAMETERS
from chat_templates.modelfile_grammar import dropped
from errors import TemplateError
from modelfiles import Modelfile, parse, write
from modelfiles.write import written_value

awkward = st.text(st.sampled_from("ab \t\r\n\"'#{}\\é▁｜.😀"), max_size=12)
names = st.text(st.sampled_from("abc/. -_"), min_size=1, max_size=10).map(str.strip).filter(bool)
numbers = {
    int: st.integers(-(2**31), 2**31),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    str: awkward,
}
parameters = st.sampled_from(sorted(PARAMETERS)).flatmap(
    lambda name: st.tuples(st.just(name), numbers[PARAMETERS[name]])
)
modelfiles = st.builds(
    Modelfile,
    from_=names.map("./{}".format),
    template=st.none() | awkward,
    system=st.none() | awkward,
    parameters=st.lists(parameters, max_size=4).map(tuple),
    messages=st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), awkward), max_size=2).map(
        tuple
    ),
    license=st.lists(awkward, max_size=2).map(tuple),
    adapter=st.none() | names,
    renderer=st.none() | names,
    parser=st.none() | names,
    requires=st.none() | st.just("0.14.0"),
)


@settings(max_examples=200, deadline=None)
@given(modelfiles)
@example(Modelfile("./x", template='say """\nquietly"""', system='"'))
def test_what_is_written_is_read_back(modelfile: Modelfile) -> None:
    text = None
    with contextlib.suppress(TemplateError):
        text = write(modelfile)
    if text is None:  # only a line that ends like closing quotes can be the reason
        values = [modelfile.template, modelfile.system, *(str(v) for _, v in modelfile.parameters)]
        values += [content for _, content in modelfile.messages] + list(modelfile.license)
        assert any('"' in (value or "") for value in values)
        return
    assert parse(text) == modelfile


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    for candidate in (text, f"FROM x\nSYSTEM {text}", f"FROM x\n{text}"):
        with contextlib.suppress(TemplateError):
            parse(candidate)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM llama3", {}),
        ("# note\n\nfrom llama3\n", {}),
        ("\ufeffFROM llama3", {}),
        ("FROM  \t llama3 \n", {}),
        ("FROM llama3\nSYSTEM hi # no comment here", {"system": "hi # no comment here"}),
        ('FROM llama3\nSYSTEM "two\nlines"', {"system": "two\nlines"}),
        ('FROM llama3\nSYSTEM """\nkept\n"""\n', {"system": "\nkept\n"}),
        ('FROM llama3\nSYSTEM "a\\nb"', {"system": "a\\nb"}),
        ("FROM llama3\nSYSTEM a\u3000b\u00a0c\u200dd\ue000e", {"system": "abcde"}),
        ("FROM llama3\nSYSTEM ▁ ｜", {"system": "▁ ｜"}),
        ("FROM llama3\r\nTEMPLATE {{ .Prompt }}\r\n", {"template": "{{ .Prompt }}"}),
        ("FROM llama3\nSYSTEM \nTEMPLATE x", {"system": "", "template": "x"}),
        ("FROM llama3\nPARAMETER num_ctx 4096", {"parameters": (("num_ctx", 4096),)}),
        ("FROM llama3\nPARAMETER temperature 1", {"parameters": (("temperature", 1.0),)}),
        ("FROM llama3\nPARAMETER use_mmap false", {"parameters": (("use_mmap", False),)}),
        (
            'FROM llama3\nPARAMETER stop "<|a|>"\nPARAMETER stop b',
            {"parameters": (("stop", "<|a|>"), ("stop", "b"))},
        ),
        ("FROM llama3\nMESSAGE user hi: there", {"messages": (("user", "hi: there"),)}),
        ("FROM llama3\nLICENSE a\nLICENSE b", {"license": ("a", "b")}),
        ("FROM llama3\nPARAMETER new_one x", {"parameters": (("new_one", "x"),)}),
    ],
)
def test_reads_like_ollama(text: str, expected: dict[str, Any]) -> None:
    assert parse(text) == Modelfile("llama3", **expected)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no FROM"),
        ("SYSTEM x", "no FROM"),
        ("FROM x\nNONSENSE y", "line 2: 'NONSENSE'"),
        ("FROM", "'FROM' is not"),
        ('FROM x\nSYSTEM """open', "line 2: a quoted"),
        ("FROM x\nPARAMETER num_ctx many", "whole number"),
        ("FROM x\nPARAMETER temperature warm", "a number"),
        ("FROM x\nPARAMETER use_mmap maybe", "true or false"),
        ("FROM x\nPARAMETER stop", "no name and value"),
        ("FROM x\nMESSAGE tool y", "role"),
        ("FROM x\nDRAFT y", "DRAFT"),
    ],
)
def test_errors_say_where(text: str, why: str) -> None:
    with pytest.raises(TemplateError, match=why):
        parse(text)


@pytest.mark.parametrize("character", ["\u3000", "\u00a0", "\u200d", "\ue000", "\x00", "\x1b", "\u2028"])
def test_what_ollama_drops_is_refused(character: str) -> None:
    assert dropped(f"a{character}b") == character
    with pytest.raises(TemplateError, match="drops the characters") as refused:
        write(Modelfile("./x.gguf", system=f"a{character}b"))
    assert "REST API" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("FROM", "./My Model.gguf", "./My Model.gguf"),
        ("SYSTEM", "hi", "hi"),
        ("SYSTEM", "", '""""""'),
        ("SYSTEM", " hi\n", '""" hi\n"""'),
        ("SYSTEM", '"""', '"""""""""'),
        ("SYSTEM", 'x"""\ny', '"x"""\ny"'),
        ("PARAMETER stop", "<|im_end|>", '"<|im_end|>"'),
        ("PARAMETER stop", "a\n", '"a\n"'),
        ("PARAMETER num_ctx", 8192, "8192"),
        ("PARAMETER temperature", 0.7, "0.7"),
        ("PARAMETER use_mmap", True, "true"),
    ],
)
def test_the_way_values_are_written(name: str, value: Any, written: str) -> None:
    try:
        assert written_value(name, value) == written
    except TemplateError:
        assert value == 'x"""\ny'  # neither quoting can hold it


def test_the_header_says_which_template_counts() -> None:
    assert "TEMPLATE below" in write(Modelfile("./x", template="{{ .Prompt }}"))
    assert "no TEMPLATE" in write(Modelfile("./x"))
