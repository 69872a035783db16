"""A template's tool format, found by rendering marked tools, calls and results and taking differences.

Knows what the pieces of a tool format are and where to cut for them. Never reads the Jinja's text. What is
found is accepted only if it renders the suite's tool conversations as the Jinja does.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from chat_templates.conversations import cases_of
from chat_templates.jinja_engine import JinjaRequest, RenderFailed
from chat_templates.sources.cutting import NoForm
from chat_templates.template import ChatTemplate, Message
from chat_templates.tools import JsonStyle, Piece, ToolFormat, write_json
from errors import TemplateError

__all__ = ["RESULT", "TOOL", "USER", "Render", "calling", "with_tools"]

Render = Callable[[Sequence[JinjaRequest]], Sequence[str | RenderFailed]]
"""Renders many requests with one template."""

_DAY = datetime.datetime(2033, 11, 28, 21, 22, 23)
_STYLES: tuple[JsonStyle, ...] = ("spaced", "indented", "compact")
USER: Message = {"role": "user", "content": "Question1Q"}
_NEXT: Message = {"role": "user", "content": "Question2Q"}
_SYSTEM: Message = {"role": "system", "content": "SystemZero0S"}
_SAID = "Beside1B"
_RESULTS = ('{"Result1R": "a"}', '{"Result2R": "b"}')


def _tool(number: int) -> dict[str, Any]:
    properties = {f"a{number}": {"type": "string", "description": f"Property{number}P"}}
    parameters = {"type": "object", "properties": properties, "required": [f"a{number}"]}
    function = {"name": f"tool{number}T", "description": f"Describe{number}D", "parameters": parameters}
    return {"type": "function", "function": function}


def _call(number: int) -> dict[str, Any]:
    function = {"name": f"tool{number}T", "arguments": {"a": f"Argument{number}A", "b": [number]}}
    return {"id": f"call0000{number}", "type": "function", "function": function}


def calling(numbers: Iterable[int], content: str = "") -> Message:
    """Return an assistant's message that calls the tools of these numbers."""
    return {"role": "assistant", "content": content, "tool_calls": [_call(number) for number in numbers]}


def _result(number: int) -> Message:
    content = _RESULTS[number - 1]
    return {"role": "tool", "name": f"tool{number}T", "tool_call_id": f"call0000{number}", "content": content}


TOOL = _tool(1)
RESULT = _result(1)
_TOOLS = (TOOL, _tool(2))
_END: tuple[Message, ...] = (_result(1), {"role": "assistant", "content": "Answer1A"}, _NEXT)
_TALKS: tuple[tuple[Message, ...], ...] = (
    (USER,),
    (_SYSTEM, USER),
    (USER, calling([1]), *_END),
    (USER, calling([1], _SAID), *_END),
    (USER, calling([1, 2]), *_END),
    (USER, calling([1]), _result(1), _result(2), *_END[1:]),
)


def with_tools(form: ChatTemplate, request: JinjaRequest, render: Render) -> ChatTemplate:
    """Return `form` with its tool format, or with the reason in words why there is none."""
    try:
        found = _found(form, request, render)
        return form if found is None else replace(form, tools=found)
    except NoForm as reason:
        return replace(form, tools_refusal=str(reason))


def _found(form: ChatTemplate, request: JinjaRequest, render: Render) -> ToolFormat | None:
    marked = replace(request, mark_dates=True)
    requests = [replace(marked, messages=talk, tools=_TOOLS) for talk in _TALKS]
    without = replace(marked, messages=(USER,))
    plain, *texts = render([without, *requests])
    if plain == texts[0]:
        return None  # it does nothing with tools
    asked, instructed, called, said, twice, results = (
        text if isinstance(text, str) else None for text in texts
    )
    if asked is None or called is None or results is None:
        raise NoForm("it refuses a tool, a call or two results")
    offer = _offer(form, asked, instructed)
    call, behind = _calls(form, offer, called, said, twice)
    found = _with_results(form, call, behind, results)
    _verify(form, found, request, render)
    return found


def _between(text: str, before: str, after: str, what: str) -> tuple[str, str, str]:
    """Return `text` cut at the first `before` and the first `after` behind it. Raises `NoForm`."""
    head, cut, rest = text.partition(before)
    middle, end, tail = rest.partition(after)
    if not (cut and end):
        raise NoForm(f"it does not write {what}")
    return head, middle, tail


def _offer(form: ChatTemplate, asked: str, instructed: str | None) -> ToolFormat:
    """Return a format with the texts around the definitions; what is around calls is still empty."""
    if not asked.startswith(form.bos):
        raise NoForm("with tools it begins otherwise than without")
    for definition in ("tool", "function"):
        for style in _STYLES:
            shown = [write_json(t if definition == "tool" else t["function"], style) for t in _TOOLS]
            if not all(asked.count(text) == 1 for text in shown):
                continue
            alone, joint, rest = _between(asked[len(form.bos) :], shown[0], shown[1], "two definitions")
            end, question, tail = rest.partition(USER["content"])
            if not question or tail != form.user.suffix + form.generation_prompt:
                raise NoForm("it writes definitions elsewhere than in front of the first question")
            in_user = form.system_placement != "own_turn" or not end.endswith(form.user.prefix)
            end = end if in_user else end[: len(end) - len(form.user.prefix)]
            prefix = middle = ""
            if instructed is not None and _SYSTEM["content"] in instructed:
                before = instructed[len(form.bos) :].partition(shown[0])[0]
                prefix, given, middle = before.partition(_SYSTEM["content"])
                if not given:
                    raise NoForm("it writes the system message behind the definitions")
            return ToolFormat(
                alone=alone, prefix=prefix, middle=middle, joint=joint, end=end, in_user=in_user,
                definition=definition, definition_style=style, call_alone="", call_prefix=None,
                call_middle="", call=(), call_style="spaced", call_joint=None,
                result_open="", result_joint="", result_close="",
            )  # fmt: skip
    raise NoForm("it does not write a tool's definition as one JSON object with the request's own keys")


def _calls(
    form: ChatTemplate, offer: ToolFormat, called: str, said: str | None, twice: str | None
) -> tuple[ToolFormat, str]:
    """Return `offer` with the texts around calls, and what is behind the first call."""
    lead = form.bos + offer.block(None, _TOOLS) + ("" if offer.in_user else form.user.prefix)
    lead += USER["content"] + form.user.suffix
    if not called.startswith(lead):
        raise NoForm("it writes the question before a call otherwise")
    turn = called[len(lead) :]
    style, pieces, alone, rest = _first_call(turn)
    found = replace(offer, call=pieces, call_style=style, call_alone=alone)
    one, two = found.one_call(_call(1)), found.one_call(_call(2))
    if said is not None and _SAID in said[len(lead) :] and one in said:
        prefix, _, behind = said[len(lead) :].partition(_SAID)
        found = replace(found, call_prefix=prefix, call_middle=behind.partition(one)[0])
    if twice is not None and one in twice and two in twice:
        found = replace(found, call_joint=_between(twice, one, two, "two calls")[1])
    return found, rest


def _first_call(turn: str) -> tuple[JsonStyle, tuple[Piece, ...], str, str]:
    """Return the style, the pieces, what is before the call and what is behind it."""
    function = _call(1)["function"]
    for style in _STYLES:
        arguments = write_json(function["arguments"], style)
        name_at, arguments_at = turn.find(function["name"]), turn.find(arguments)
        if name_at < 0 or arguments_at < 0:
            continue
        slots = sorted([(name_at, function["name"], "name"), (arguments_at, arguments, "arguments")])
        (first, one, kind), (second, two, other) = slots
        pieces = [Piece("name") if kind == "name" else Piece("arguments")]
        pieces.append(Piece("text", turn[first + len(one) : second]))
        pieces.append(Piece("name") if other == "name" else Piece("arguments"))
        return style, tuple(pieces), turn[:first], turn[second + len(two) :]
    raise NoForm("it does not write a call's arguments as one JSON object")


def _with_results(form: ChatTemplate, call: ToolFormat, behind: str, text: str) -> ToolFormat:
    """Return `call` with the texts around results; `behind` follows a call with the first of them."""
    quoted = _RESULTS[0] not in behind
    shown = [write_json(result, "spaced") if quoted else result for result in _RESULTS]
    opening, there, _ = behind.partition(shown[0])
    if not there:
        raise NoForm("it does not write a result as it is")
    _, joint, rest = _between(text, shown[0], shown[1], "two results as they are")
    close, there, _ = rest.partition(form.assistant.prefix + "Answer1A")
    if not there:
        raise NoForm("it writes the answer after a result otherwise")
    return replace(call, result_open=opening, result_joint=joint, result_close=close, result_quoted=quoted)


def _verify(form: ChatTemplate, found: ToolFormat, request: JinjaRequest, render: Render) -> None:
    """Raise `NoForm` where the format does not say what the Jinja says."""
    held = replace(form, tools=found)
    cases = [(c.name, c.messages, c.tools) for c in cases_of("tools") if "thoughts" not in c.name]
    cases += [("a marked conversation with tools", talk, _TOOLS) for talk in _TALKS]
    dated = replace(request, now=_DAY.isoformat())
    requests = [replace(dated, messages=messages, tools=tools) for _, messages, tools in cases]
    for (name, messages, tools), truth in zip(cases, render(requests), strict=True):
        if isinstance(truth, RenderFailed):
            continue
        try:
            said = held.render(messages, tools=tools, now=_DAY)
        except TemplateError as error:
            raise NoForm(f"with {name} the form says: {error.message}") from error
        if said != truth:
            at = next((i for i, (a, b) in enumerate(zip(said, truth, strict=False)) if a != b), len(said))
            raise NoForm(
                f"with {name} it writes {truth[at : at + 40]!r} where the form has {said[at : at + 40]!r}"
            )
