"""The process that runs chat templates nobody has vetted: Jinja in a sandbox, under hard limits.

Knows transformers' Jinja environment (its filters, globals and extensions, transformers 5) and how to cut a
rendering that continues the final message. Speaks JSON lines over its pipes and ends at end of input.
Does not know Portside: it imports jinja2, the standard library and, when it is to render as llama.cpp does,
the package `as_llama_cpp` beside it, so it starts quickly and has nothing worth stealing.

One line in: `{"template": str, "requests": [{"messages": …, "variables": …, …}, …], "cpu": s, "output": n}`.
One line out for each request: `{"text": str}` or `{"error": str, "kind": str}`.
"""

from __future__ import annotations

import datetime
import functools
import importlib
import json
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

MEMORY_LIMIT = 1 << 30
"""Bytes of address space; a worker with nothing to do takes about 50 MB."""

CONTINUE_TAG = "PORTSIDE-CONTINUES-HERE "
"""Marks the end of the final message while it is rendered; the last blank tells whether it was trimmed."""


class GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`, which marks the assistant's text for training masks."""

    tags = {"generation"}  # noqa: RUF012 — Jinja's own declaration

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_unchanged"), [], [], body).set_lineno(line)

    def _unchanged(self, caller: Callable[[], str]) -> str:
        return caller()


class NoDunderNamespace(jinja2.utils.Namespace):
    """A `namespace()` whose attributes cannot begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _refuse_underscore(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


class PlainDict:
    """`dict` as templates may use it: a call and `fromkeys`, and no class to climb."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _refuse_underscore(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold the underscore name {name!r}")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


EXTENSIONS = (GenerationBlock, "jinja2.ext.loopcontrols")


def make_environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """Return a fresh environment that renders as transformers' does."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=EXTENSIONS
    )
    environment.filters["tojson"] = _tojson
    _give_globals(environment)
    return environment


def _give_globals(environment: jinja2.Environment) -> None:
    environment.globals.update(
        raise_exception=_raise_exception,
        strftime_now=lambda pattern: datetime.datetime.now().strftime(pattern),
        dict=PlainDict(),
        namespace=NoDunderNamespace,
    )


@functools.lru_cache(maxsize=16)
def _compiled(text: str) -> jinja2.Template:
    return make_environment().from_string(text)


def render(text: str, request: dict[str, Any], output_limit: int) -> str:
    """Render one conversation. Raises whatever the template raises."""
    if request.get("llama_cpp"):
        prompt: str = _llama_cpp().render(text, request, output_limit, _limited)
        return prompt
    messages = [_with_reasoning(dict(message)) for message in request["messages"]]
    final: str | None = None
    if request.get("continue_final_message"):
        final = _tag_final_message(text, messages)
    if request.get("typed_content"):
        messages = [_typed(message) for message in messages]
    variables = dict(request.get("variables") or {})
    if request.get("date_marks"):
        before, after = request["date_marks"]
        variables["strftime_now"] = lambda pattern: f"{before}{pattern}{after}"
    elif request.get("now"):
        moment = datetime.datetime.fromisoformat(request["now"])
        variables["strftime_now"] = moment.strftime
    parts = _compiled(text).generate(
        messages=messages,
        tools=request.get("tools"),
        documents=None,
        add_generation_prompt=bool(request.get("add_generation_prompt")),
        **variables,
    )
    prompt = "".join(_limited(parts, output_limit))
    return prompt if final is None else _cut_after(prompt, final)


@functools.cache
def _llama_cpp() -> Any:
    """Return the renderer that does as llama.cpp."""
    sys.path.append(str(Path(__file__).parent))  # behind the standard library
    as_llama_cpp = importlib.import_module("as_llama_cpp")
    environment = as_llama_cpp.make_environment(EXTENSIONS)
    _give_globals(environment)
    return as_llama_cpp.Renderer(environment)


def _typed(message: dict[str, Any]) -> dict[str, Any]:
    """Give the text as a list of one part, as engines do for templates that read only such lists."""
    content = message.get("content")
    return (
        {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message
    )


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Give a message's reasoning both names that templates read it under."""
    for name in ("reasoning_content", "thinking", "reasoning"):
        if message.get(name) is not None:
            return {"thinking": message[name], **message, "reasoning_content": message[name]}
    return message


def _limited(parts: Iterator[str], limit: int) -> Iterator[str]:
    size = 0
    for part in parts:
        size += len(part)
        if size > limit:
            raise OutputTooLarge
        yield part


def _tag_final_message(text: str, messages: list[dict[str, Any]]) -> str:
    if not messages or not isinstance(messages[-1].get("content"), str):
        raise NothingToContinue("there is no final message with a text to continue")
    if "content" not in text:
        raise NothingToContinue("the template never reads the content of a message")
    final: str = messages[-1]["content"]
    messages[-1]["content"] = final + CONTINUE_TAG
    return final


def _cut_after(prompt: str, final: str) -> str:
    tag = CONTINUE_TAG.strip()
    if final.strip() not in prompt or tag not in prompt:
        raise NothingToContinue("the template drops or alters the final message, so it cannot be continued")
    at = prompt.rindex(tag)
    kept = prompt[:at]
    return kept if prompt.startswith(CONTINUE_TAG, at) else kept.rstrip()


class OutputTooLarge(Exception):
    """The rendering outgrew the output limit."""


class NothingToContinue(Exception):
    """`continue_final_message` cannot be honoured; the message says why."""


_KINDS: tuple[tuple[type[Exception], str, str], ...] = (
    (jinja2.TemplateSyntaxError, "syntax", "line {error.lineno}: {error.message}"),
    (jinja2.exceptions.SecurityError, "security", "it tries to leave the sandbox: {error}"),
    (jinja2.UndefinedError, "undefined", "it uses something undefined: {error}"),
    (jinja2.TemplateError, "raised", "{error}"),
    (NothingToContinue, "continue", "{error}"),
    (OutputTooLarge, "limit", "its output is larger than {limit:,} characters"),
    (MemoryError, "limit", "it needs more than {memory} MiB of memory"),
    (RecursionError, "limit", "it recurses without end"),
    (OverflowError, "limit", "it asks for too much: {error}"),
)


def answer(text: str, request: dict[str, Any], output_limit: int) -> dict[str, str]:
    """Return `{"text": …}`, or what went wrong in words with its kind."""
    try:
        return {"text": render(text, request, output_limit)}
    except Exception as error:  # noqa: BLE001 — a template can raise anything Python can
        for kind_of, kind, words in _KINDS:
            if isinstance(error, kind_of):
                said = words.format(error=error, limit=output_limit, memory=MEMORY_LIMIT >> 20)
                return {"error": said, "kind": kind}
        if type(error).__name__ == "Unpredictable":
            return {"error": str(error), "kind": "unpredictable"}
        return {"error": f"{type(error).__name__}: {error}", "kind": "failed"}


def _allow_cpu(seconds: int) -> None:
    """Let this process use `seconds` more of CPU; the kernel kills it after that, in C code too."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def main() -> None:
    """Answer lines until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        task = json.loads(line)
        for request in task["requests"]:
            _allow_cpu(task["cpu"])
            reply = json.dumps(answer(task["template"], request, task["output"]))
            sys.stdout.buffer.write(reply.encode("ascii") + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
