"""Findings about the template that a checkpoint carries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chat_templates import inspect_template, load_source
from checkpoint import Checkpoint
from errors import TemplateError
from tests.checkpoints import CHATML

MakeCheckpoint = Callable[..., Path]


def found(path: Path, spec: str | None = None) -> list[tuple[str, str]]:
    checkpoint = Checkpoint.open(path)
    source = load_source(spec, checkpoint) if spec else None
    return [(finding.code, finding.severity) for finding in inspect_template(checkpoint, source)]


def test_the_sample_is_clean(sample: Path) -> None:
    assert found(sample) == []


@pytest.mark.parametrize(
    ("template", "code", "severity"),
    [
        (None, "template-missing", "error"),
        ("{% if %}", "template-syntax", "error"),
        ("{{ raise_exception('no') }}", "template-raises", "error"),
        ("{{ strftime_now('%d') }}" + CHATML, "template-date", "info"),
    ],
)
def test_a_defect_is_a_finding(
    make_checkpoint: MakeCheckpoint, template: str | None, code: str, severity: str
) -> None:
    path = make_checkpoint(chat_template=template)
    assert found(path) == [(code, severity)]


@pytest.mark.parametrize(("template", "code"), [(None, "template-missing"), ("{% if %}", "template-syntax")])
def test_a_defect_matters_less_where_another_template_is_named(
    make_checkpoint: MakeCheckpoint, template: str | None, code: str
) -> None:
    assert found(make_checkpoint(chat_template=template), "family:chatml") == [(code, "warning")]


def test_the_training_template_may_differ_from_the_stored_one(make_checkpoint: MakeCheckpoint) -> None:
    path = make_checkpoint(chat_template=load_source("family:chatml", None).jinja)
    assert found(path, "family:chatml") == []
    assert found(path, "family:qwen2.5") == [("template-differs", "warning")]


def test_a_missing_template_is_an_error_that_names_the_families(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(chat_template=None))
    with pytest.raises(TemplateError, match="deepseek-r1-distill"):
        load_source("checkpoint", checkpoint)
