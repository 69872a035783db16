"""A chat template's form, found by rendering its Jinja with marked conversations and taking differences.

Knows how a linear template falls apart into prefixes and suffixes. Never reads the Jinja's text: what it
does is all that counts. What is found is accepted only if it renders every plain chat as the Jinja does.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from chat_templates.conversations import cases_of
from chat_templates.dates import dated
from chat_templates.jinja_engine import JinjaRequest, Renderer, RenderFailed, shared_worker
from chat_templates.sources.candidates import Findings, Parts, SystemParts
from chat_templates.sources.cutting import NoForm, common_prefix, cut, shared_start
from chat_templates.sources.probe_thinking import with_thinking, with_thoughts_in_calls
from chat_templates.sources.probe_tools import with_tools
from chat_templates.template import ChatTemplate, Message
from errors import TemplateError

__all__ = ["Probed", "depends_on_date", "probe", "reads_parts_only"]

_DATES = ("1987-03-09T10:11:12", "2033-11-28T21:22:23")


@dataclass(frozen=True)
class Probed:
    """The form, or the reason in words why there is none."""

    form: ChatTemplate | None
    refusal: str | None = None
    broken: RenderFailed | None = None
    """Set when the template does not even render one question."""
    typed_content: bool = False
    """It writes texts that come as lists of parts, and not those that come as they are."""


def probe(
    jinja: str,
    *,
    name: str,
    bos_token: str | None = None,
    eos_token: str | None = None,
    other_tokens: Mapping[str, str] | None = None,
    worker: Renderer | None = None,
) -> Probed:
    """Return the form of the Jinja text `jinja`, proven on the plain chats of the suite."""
    empty = JinjaRequest((), bos_token=bos_token, eos_token=eos_token, variables=dict(other_tokens or {}))
    typed = reads_parts_only(jinja, empty, worker=worker)
    prober = _Prober(jinja, name, replace(empty, typed_content=typed), worker or shared_worker())
    try:
        return Probed(prober.form(), typed_content=typed)
    except RenderFailed as error:
        return Probed(None, error.message, broken=error, typed_content=typed)
    except NoForm as reason:
        return Probed(None, str(reason), typed_content=typed)


def reads_parts_only(jinja: str, request: JinjaRequest, *, worker: Renderer | None = None) -> bool:
    """Say whether a question gets into the prompt only as a list of parts; `request` gives the tokens.

    Templates of models that see images are often so. vLLM and llama.cpp notice and hand texts over as lists.
    """
    plain = replace(request, messages=(_user(1),))
    text: str = _user(1)["content"]
    worker = worker or shared_worker()
    said = worker.render_all(jinja, [plain])[0]
    if (isinstance(said, str) and text in said) or (isinstance(said, RenderFailed) and said.kind == "limit"):
        return False
    typed = worker.render_all(jinja, [replace(plain, typed_content=True)])[0]
    return isinstance(typed, str) and text in typed and repr(text) not in typed


def depends_on_date(
    jinja: str, request: JinjaRequest | None = None, *, worker: Renderer | None = None
) -> bool:
    """Say whether today's date gets into the prompt; `request` gives the special tokens."""
    question = replace(request or JinjaRequest(()), messages=(_user(1),))
    dated = [replace(question, now=now) for now in _DATES]
    first, second = (worker or shared_worker()).render_all(jinja, dated)
    return isinstance(first, str) and isinstance(second, str) and first != second


def _user(number: int) -> Message:
    return {"role": "user", "content": f"Question{number}Q"}


def _assistant(number: int) -> Message:
    return {"role": "assistant", "content": f"Answer{number}A"}


class _Truth(NamedTuple):
    """A case of the suite, and what the Jinja makes of it on a certain day."""

    name: str
    messages: Sequence[Message]
    text: str | RenderFailed
    day: str


_SYSTEM: Message = {"role": "system", "content": "SystemZero0S"}
_PADDED = {"system": "  SystemZero0S  ", "user": "\n Question1Q \n", "assistant": "\n Answer1A \n"}
_TALK: tuple[Message, ...] = (_user(1), _assistant(1), _user(2), _assistant(2), _user(3))


class _Prober:
    def __init__(self, jinja: str, name: str, request: JinjaRequest, worker: Renderer) -> None:
        self._jinja, self._name, self._request, self._worker = jinja, name, request, worker
        self._bos = request.bos_token

    def form(self) -> ChatTemplate:
        """Return the first candidate that renders the plain chats. Raises `NoForm`, `RenderFailed`."""
        self._try([_user(1)])
        parts = self._parts()
        system = self._system_pieces(parts)
        chats, odd = self._truths("chat"), self._truths("repeated")
        if dated((parts, system)):
            chats += self._truths("chat", _DATES[1])
        findings = Findings(
            self._name, parts, system, self._lead([]) or "", self._lead([{**_SYSTEM, "content": ""}])
        )
        complaints: list[str] = []
        exact: list[ChatTemplate] = []
        for bos in dict.fromkeys((self._bos_of(parts), "")):
            for form in findings.candidates(bos):
                difference = _first_difference(form, chats)
                exact += [form] if difference is None else []
                complaints += [difference] if difference else []
            if exact:
                break
        if not exact:
            raise NoForm(complaints[0] if complaints else "no split into prefixes and suffixes was found")
        # Plain chats leave open where a turn ends and the next begins; conversations out of order tell.
        return self._refined(max(exact, key=lambda form: sum(_agrees(form, truth) for truth in odd)))

    def _try(self, messages: Sequence[Message], *, prompt: bool = True, marks: bool = True) -> str:
        """Render with marked dates, or on a certain day."""
        request = replace(self._request, messages=messages, add_generation_prompt=prompt)
        request = replace(request, mark_dates=True) if marks else replace(request, now=_DATES[0])
        return self._worker.render(self._jinja, request)

    def _maybe(self, messages: Sequence[Message], *, prompt: bool = True, marks: bool = True) -> str | None:
        try:
            return self._try(messages, prompt=prompt, marks=marks)
        except RenderFailed:
            return None

    def _parts(self) -> Parts:
        talk = self._maybe(_TALK)
        if talk is None:
            raise NoForm("it refuses a conversation of several turns")
        if not any(answer["content"] in talk for answer in _TALK[1::2]):
            return self._unanswered(talk)
        head, mid, after, mid2, after2, tail = cut(talk, _TALK)
        if mid != mid2 or not after2.startswith(after):
            raise NoForm("it writes later turns differently from the first")
        user_suffix = self._user_suffix(mid, tail)
        ended = self._maybe(_TALK[:2], prompt=False)
        ending = cut(ended, _TALK[:2])[-1] if ended is not None else after
        assistant_suffix = shared_start(after, ending)
        return Parts(
            head=head,
            user_suffix=user_suffix,
            assistant_prefix=mid[len(user_suffix) :],
            assistant_suffix=assistant_suffix,
            rest=after[len(assistant_suffix) :],
            generation_prompt=tail[len(user_suffix) :],
            last=after2[len(after) :],
        )

    def _user_suffix(self, mid: str, tail: str) -> str:
        """Return what ends a question, of the texts `mid` and `tail` behind the first and the last one."""
        closed = self._maybe([_user(1)], prompt=False)
        open_end = cut(closed, [_user(1)])[-1] if closed is not None else ""
        return shared_start(common_prefix(mid, tail), open_end)

    def _unanswered(self, talk: str) -> Parts:
        head, mid, mid2, tail = cut(talk, _TALK[::2])
        if mid != mid2:
            raise NoForm("it writes later turns differently from the first")
        suffix = self._user_suffix(mid, tail)
        return Parts(head, suffix, "", "", mid[len(suffix) :], tail[len(suffix) :], unanswered=True)

    def _system_pieces(self, parts: Parts) -> SystemParts | None:
        """Return the texts around a system message; None if it is refused."""
        text = self._maybe((_SYSTEM, *_TALK))
        if text is None:
            return None
        if _SYSTEM["content"] not in text:
            written = _TALK[::2] if parts.unanswered else _TALK
            head = cut(text, written, complaint="it drops the system message without a word")[0]
            bos = self._bos_of(parts)
            if not head.startswith(bos):
                raise NoForm("it drops the system message, and BOS with it")
            return SystemParts(bos, head[len(bos) :], dropped=True)
        if text.find(_SYSTEM["content"]) < text.find(_TALK[0]["content"]):
            before, after = cut(text, (_SYSTEM, *(_TALK[::2] if parts.unanswered else _TALK)))[:2]
            return SystemParts(before, after)
        moved = cut(
            text,
            (*_TALK[:-1], _SYSTEM, _TALK[-1]),
            complaint="it does not write the system message before the first question",
        )
        if not moved[4].startswith(parts.assistant_suffix + parts.rest):
            raise NoForm("it writes the system message neither in front nor in a user's turn")
        return SystemParts(moved[4][len(parts.assistant_suffix + parts.rest) :], moved[5], last=True)

    def _lead(self, before: Sequence[Message]) -> str | None:
        """Return what is written before the text of a question that follows `before`."""
        text = self._maybe([*before, _user(1)])
        return None if text is None else text.partition(_user(1)["content"])[0]

    def _bos_of(self, parts: Parts) -> str:
        bos = self._bos or ""
        if not parts.head.startswith(bos) or bos in parts.generation_prompt:
            return ""  # absent, or a token that begins every turn, as SmolLM2's <|im_start|> does
        return bos

    def _truths(self, class_name: str, day: str = _DATES[0]) -> list[_Truth]:
        cases = cases_of(class_name)
        requests = [replace(self._request, messages=case.messages, now=day) for case in cases]
        results = self._worker.render_all(self._jinja, requests)
        return [_Truth(c.name, c.messages, result, day) for c, result in zip(cases, results, strict=True)]

    def _refined(self, form: ChatTemplate) -> ChatTemplate:
        """Add what plain chats do not show: trimming and the stripping of past thoughts."""
        trimmed = {role for role in _PADDED if self._trims(form, role)}
        form = replace(form, trimmed=frozenset(trimmed), begun=self._begun(form))
        form = with_thinking(form, self._request, self._render_all)
        form = with_tools(form, self._request, self._render_all)
        return with_thoughts_in_calls(form, self._request, self._render_all)

    def _render_all(self, requests: Sequence[JinjaRequest]) -> list[str | RenderFailed]:
        return self._worker.render_all(self._jinja, requests)

    def _trims(self, form: ChatTemplate, role: str) -> bool:
        padded: Message = {"role": role, "content": _PADDED[role]}
        talk = {
            "system": [padded, _user(1)],
            "user": [padded],
            "assistant": [_user(1), padded, _user(2)],
        }[role]
        text = self._maybe(talk, marks=False)
        if text is None or (role == "system" and form.system is None):
            return False
        return text == _said(replace(form, trimmed=frozenset({role})), talk) != _said(form, talk)

    def _begun(self, form: ChatTemplate) -> str:
        """Return the text in front of an answer that is to be continued, beyond its turn's prefix."""
        talk = (_user(1), _assistant(1))
        request = replace(self._request, messages=talk, continue_final_message=True, mark_dates=True)
        text = self._worker.render_all(self._jinja, [request])[0]
        lead = form.render(talk[:1], add_generation_prompt=False) + form.assistant.prefix
        if isinstance(text, RenderFailed) or form.dated or not text.startswith(lead):
            return ""
        begun, answer, rest = text[len(lead) :].partition(talk[1]["content"])
        return begun if answer and not rest else ""


def _said(form: ChatTemplate, messages: Sequence[Message]) -> str:
    return form.render(messages, now=datetime.datetime.fromisoformat(_DATES[0]))


def _first_difference(form: ChatTemplate, truths: Sequence[_Truth]) -> str | None:
    for name, messages, truth, day in truths:
        if isinstance(truth, RenderFailed):
            continue
        try:
            said = form.render(messages, now=datetime.datetime.fromisoformat(day))
        except TemplateError:
            return f"with {name} it does more than a refusal"
        if said != truth:
            at = len(common_prefix(said, truth))
            return f"with {name} it writes {truth[at : at + 40]!r} where the form has {said[at : at + 40]!r}"
    return None


def _agrees(form: ChatTemplate, truth: _Truth) -> bool:
    return not isinstance(truth.text, RenderFailed) and _first_difference(form, [truth]) is None
