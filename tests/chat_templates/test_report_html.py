"""The page is whole, loads nothing, and shows hostile text as text."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chat_templates import inspect_template, load_source, prove
from chat_templates.conversations import CLASSES
from chat_templates.report_html import Piece, pieces, report_html, write_report
from chat_templates.sources.load import source_of_jinja
from checkpoint import Checkpoint, Finding

SPECIAL = re.compile(r"<\|x\|>")
_VOID = {"meta"}


class Page(HTMLParser):
    """Counts elements, and fails where they are not well nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_has_the_table_every_conversation_and_both_prompts(sample: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(sample)
    source = load_source("family:chatml", checkpoint)
    proof = prove(source, checkpoint, every_case=True)
    path = write_report(tmp_path / "report.html", proof, inspect_template(checkpoint, source), checkpoint)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    shown = [r.compared for d in proof.dialects.values() for r in d.classes.values()]
    cases = sum(len(proof.dialects["jinja"].classes[name].compared) for name in CLASSES)
    assert page.tags.count("details") == cases > 30
    assert page.tags.count("pre") == 2 * sum(map(len, shown))
    assert page.tags.count("tr") == 1 + len(proof.dialects)
    assert "template-differs" in text
    assert '<span class="special">&lt;|im_start|&gt;</span>' in text
    assert '<span class="white">⏎\n</span>' in text
    assert "<mark" in text


def test_the_page_loads_and_runs_nothing(sample: Path) -> None:
    checkpoint = Checkpoint.open(sample)
    page = Page(report_html(prove(load_source("checkpoint", checkpoint), checkpoint, every_case=True)))
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {name for name in names if name.startswith("on")} | {"src", "style"} & names
    assert all((value or "").startswith("#") for name, value in page.attributes if name == "href")
    policy = [value for name, value in page.attributes if name == "content"]
    assert "default-src 'none'; style-src 'unsafe-inline'" in policy


def test_hostile_text_is_shown_and_not_obeyed() -> None:
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>&amp;\x00\x1b\u202e\ud800"
    jinja = "{% for m in messages %}EVIL{{ m.content }}{% endfor %}".replace("EVIL", evil)
    source = source_of_jinja(evil, evil, jinja, (None, None), evil)
    finding = Finding("template-differs", "warning", evil, evil)
    proof = prove(source, None, every_case=True)
    text = report_html(proof, [finding], [evil], name=evil)
    page = Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert "&lt;script&gt;" in text
    assert not {"\x00", "\x1b", "\u202e", "\ud800"} & set(text)
    assert "&lt;U+202E&gt;" in text


def test_a_source_that_nothing_can_be_said_of_still_gives_a_page(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(make_checkpoint())
    (tmp_path / "x.jinja").write_text("{{ raise_exception('never <b>') }}")
    source = load_source(str(tmp_path / "x.jinja"), checkpoint)
    Page(report_html(prove(source, checkpoint, every_case=True)))


@pytest.mark.parametrize(
    ("text", "other", "wanted"),
    [
        ("a b", "a b", [("a", "plain", False), ("·", "white", False), ("b", "plain", False)]),
        ("<|x|>\n", None, [("<|x|>", "special", False), ("⏎\n", "white", False)]),
        ("axc", "abbc", [("a", "plain", False), ("x", "plain", True), ("c", "plain", False)]),
        ("ac", "abc", [("a", "plain", False), ("∎", "plain", True), ("c", "plain", False)]),
        ("", "b", [("∎", "plain", True)]),
        ("\n \n", None, [("⏎\n·⏎\n", "white", False)]),
        ("\u200b\u3000", None, [("<U+200B>", "plain", False), ("<U+3000>", "white", False)]),
    ],
)
def test_prompts_are_cut_and_marked(
    text: str, other: str | None, wanted: list[tuple[str, str, bool]]
) -> None:
    assert pieces(text, other, SPECIAL) == tuple(Piece(*piece) for piece in wanted)


def test_a_proof_stops_at_the_first_difference_unless_a_report_wants_every_case() -> None:
    source = load_source("family:chatml", None)
    short = prove(source, None, ("ollama",)).dialects["ollama"].classes["repeated"]
    whole = prove(source, None, ("ollama",), every_case=True).dialects["ollama"].classes["repeated"]
    assert len(short.compared) == short.cases < len(whole.compared)
    assert short.as_json() == whole.as_json()
