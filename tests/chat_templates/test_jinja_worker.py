"""The worker renders as transformers does, and outlives whatever a template does to it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chat_templates.conversations import CLASSES, cases_of
from chat_templates.jinja_engine import JinjaRequest, JinjaWorker, RenderFailed
from errors import TemplateError
from tests.chat_templates.corpus import templates

HELLO = ({"role": "user", "content": "Hello"},)


@pytest.fixture(scope="module")
def worker() -> Iterator[JinjaWorker]:
    with JinjaWorker(cpu_seconds=1, output_limit=100_000) as shared:
        yield shared


def render(worker: JinjaWorker, template: str, **options: Any) -> str:
    return worker.render(template, JinjaRequest(options.pop("messages", HELLO), **options))


@pytest.mark.parametrize(
    ("template", "kind", "said"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "limit",
            "processor",
        ),
        ("{% for i in range(10**12) %}x{% endfor %}", "limit", "Range too big"),
        ("{{ 'a' * 10**10 }}", "limit", "memory"),
        ("{{ 10 ** (10 ** 10) }}", "limit", "processor time|memory"),
        ("{{ '%999999999999d' | format(1) }}", "limit|failed", ""),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "limit", "recurses"),
        ("{{" + "(" * 9000, "limit", "recurses"),
        ("{% for i in range(9999) %}{{ 'x' * 999 }}{% endfor %}", "limit", "larger than 100,000"),
        ("{{ ().__class__.__base__.__subclasses__() }}", "security", "sandbox"),
        ("{{ messages.append(1) }}", "security", "sandbox"),
        ("{{ namespace(__class__=1) }}", "security", "underscore"),
        ("{{ dict.__globals__ }}{{ dict.mro() }}", "undefined|security", ""),
        ("{% if %}", "syntax", "line 1"),
        ("{{ raise_exception('Roles must alternate!') }}", "raised", "Roles must alternate!"),
        ("{{ missing.attribute }}", "undefined", "'missing' is undefined"),
        ("{{ messages + 1 }}", "failed", "TypeError"),
        ("{% include 'x' %}", "failed", "no loader"),
        ("x" * 1_100_000, "limit", "1,048,576"),
    ],
)
def test_whatever_a_template_does_is_an_error_in_words(
    worker: JinjaWorker, template: str, kind: str, said: str
) -> None:
    import re

    started = time.monotonic()
    with pytest.raises(RenderFailed) as caught:
        render(worker, template)
    assert time.monotonic() - started < 30
    assert re.fullmatch(kind, caught.value.kind)
    assert re.search(said, caught.value.message)
    assert render(worker, "{{ messages[0].content }}") == "Hello"


def test_a_worker_that_hangs_is_stopped_by_the_clock() -> None:
    with JinjaWorker(cpu_seconds=60, wall_seconds=0.5) as worker:
        hang = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
        results = worker.render_all(hang, [JinjaRequest(HELLO)] * 3)
    assert [isinstance(result, RenderFailed) and result.kind for result in results] == ["limit"] * 3


def test_a_failure_in_a_batch_does_not_touch_its_neighbours(worker: JinjaWorker) -> None:
    template = "{{ messages[0].content if messages | length == 1 else raise_exception('one only') }}"
    results = worker.render_all(template, [JinjaRequest(HELLO), JinjaRequest(HELLO * 2), JinjaRequest(HELLO)])
    assert [isinstance(result, str) for result in results] == [True, False, True]


def test_large_batches_cross_the_pipes_in_both_directions(worker: JinjaWorker) -> None:
    requests = [JinjaRequest(({"role": "user", "content": f"{i} " + "ä" * 2000},)) for i in range(1500)]
    results = worker.render_all("{{ messages[0].content }}", requests)
    assert results == [request.messages[0]["content"] for request in requests]


def test_threads_share_a_worker(worker: JinjaWorker) -> None:
    def ask(number: int) -> str:
        return render(
            worker, "{{ messages[0].content }}", messages=({"role": "user", "content": str(number)},)
        )

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(100))) == [str(number) for number in range(100)]
    assert threading.active_count() >= 1


def test_a_killed_worker_is_started_again(worker: JinjaWorker) -> None:
    render(worker, "")
    process = worker._process
    assert process is not None
    process.kill()
    process.wait()
    assert render(worker, "{{ 1 + 1 }}") == "2"


def test_messages_must_be_plain_data(worker: JinjaWorker) -> None:
    with pytest.raises(TemplateError, match="plain JSON"):
        render(worker, "", messages=({"role": "user", "content": object()},))


def test_the_worker_ends_with_its_parent() -> None:
    script = (
        "from chat_templates.jinja_engine import *\n"
        "import os\n"
        "w = JinjaWorker(); w.render('', JinjaRequest(()))\n"
        "print(w._process.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while _running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def test_an_interpreter_that_used_the_worker_exits_without_a_warning() -> None:
    script = (
        "from chat_templates.jinja_engine import *\n"
        "print(shared_worker().render('{{ 7 }}', JinjaRequest(())))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", script],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_dates_can_be_held_still(worker: JinjaWorker) -> None:
    template = "{{ strftime_now('%d %b %Y') }}"
    assert render(worker, template, now="2024-07-26T00:00:00") == "26 Jul 2024"
    assert render(worker, template) == time.strftime("%d %b %Y")


def _by_transformers(template: str, request: JinjaRequest) -> str | None:
    from transformers.utils.chat_template_utils import render_jinja_template

    data = request.as_json()
    try:
        rendered, _ = render_jinja_template(
            conversations=[data["messages"]],
            tools=data["tools"],
            chat_template=template,
            add_generation_prompt=data["add_generation_prompt"],
            continue_final_message=data["continue_final_message"],
            **data["variables"],
        )
    except Exception:  # noqa: BLE001 — a template can raise anything
        return None
    text: str = rendered[0]
    return text


def _requests() -> list[JinjaRequest]:
    return [
        JinjaRequest(
            case.messages,
            add_generation_prompt=prompt and case.add_generation_prompt,
            continue_final_message=case.continue_final_message,
            tools=case.tools,
            bos_token="<s>",
            eos_token="</s>",
        )
        for name in CLASSES
        for case in cases_of(name)[::2]
        for prompt in (True, False)
    ]


@pytest.mark.filterwarnings("ignore")
def test_it_renders_public_templates_as_transformers_does(worker: JinjaWorker) -> None:
    requests, compared = _requests(), 0
    for name, template in list(templates().items())[::2]:
        if "strftime_now" in template:
            continue
        for request, result in zip(requests, worker.render_all(template, requests), strict=True):
            ours = result if isinstance(result, str) else None
            assert ours == _by_transformers(template, request), (name, request)
            compared += 1
    assert compared > 1000


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "template",
    [
        "{% generation %}a{% endgeneration %}\n  {% if true %}\n b\n{% endif %}\n",
        "{{ {'b': 'ü<>&', 'a': [1, none]} | tojson }}{{ [1] | tojson(indent=2) }}",
        "{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
        "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "{% set n = namespace(x=1) %}{% set n.x = 2 %}{{ n.x }}{{ dict(a=1) }}",
        "{{ bos_token }}|{{ pad_token }}|{{ tools is none }}|{{ documents is none }}",
        "{{ messages[0].reasoning_content is defined }}{{ messages[0]['content'] }}\n\n",
    ],
)
def test_it_has_transformers_filters_and_globals(worker: JinjaWorker, template: str) -> None:
    request = JinjaRequest(HELLO, bos_token="<s>")
    assert worker.render(template, request) == _by_transformers(template, request)
