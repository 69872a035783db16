"""The chat template inside a GGUF file as a source: to compare, and to take over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from chat_templates import inspect_template, load_source, match_families
from chat_templates.conversations import cases_of
from checkpoint import Checkpoint
from convert import plan_conversion, run_conversion
from errors import ConversionError, TemplateError
from tests.deploy.pains import ALPACA

Make = Callable[..., Path]


def convert(checkpoint: Checkpoint, directory: Path) -> str:
    return str(run_conversion(plan_conversion(checkpoint, ["q8_0"], directory))[0].path)


def test_a_gguf_says_what_its_checkpoint_says(make_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(layers=1))
    inside = load_source(convert(checkpoint, tmp_path / "out"), None)
    own = load_source("checkpoint", checkpoint)
    assert (inside.jinja, inside.bos_token, inside.eos_token) == (own.jinja, own.bos_token, own.eos_token)
    for case in cases_of("chat"):
        assert inside.render(case.messages) == own.render(case.messages)
    assert inspect_template(checkpoint, inside) == ()


def test_a_gguf_with_another_template_is_told(make_checkpoint: Make, tmp_path: Path) -> None:
    other = Checkpoint.open(make_checkpoint("other", layers=1, chat_template=ALPACA))
    source = load_source(convert(other, tmp_path / "out"), None)
    checkpoint = Checkpoint.open(make_checkpoint())
    assert "template-differs" in [finding.code for finding in inspect_template(checkpoint, source)]
    assert "### Instruction:" in source.render([{"role": "user", "content": "Hello"}])
    assert match_families(source).equal == ()


def test_a_gguf_without_a_template_says_so(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "bare.gguf", "llama")
    writer.add_tensor("x", np.zeros((1, 32), np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    with pytest.raises(TemplateError, match="holds no chat template"):
        load_source(str(tmp_path / "bare.gguf"), None)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a GGUF file", None])
def test_a_file_that_is_no_gguf(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ConversionError):
        load_source(str(tmp_path / "x.gguf"), None)
