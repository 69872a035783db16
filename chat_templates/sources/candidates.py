"""The forms that the differences between renderings allow, before anything is proven of them.

Knows how the texts around a conversation's contents can be dealt out to a form's fields. Renders nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from chat_templates.sources.cutting import common_prefix, prefixes
from chat_templates.template import ChatTemplate, Markup

__all__ = ["Findings", "Parts", "SystemParts"]


@dataclass(frozen=True)
class Parts:
    """The texts between the contents of a rendering, cut where the form cuts."""

    head: str
    user_suffix: str
    assistant_prefix: str
    assistant_suffix: str
    rest: str
    """Between an assistant's suffix and the next question: separator and user prefix."""
    generation_prompt: str
    last: str = ""
    """In front of the last question only."""
    unanswered: bool = False
    """Answers are not written: `assistant_prefix` and `assistant_suffix` are empty."""


@dataclass(frozen=True)
class SystemParts:
    """The texts around a system message."""

    before: str
    after: str
    """Up to the question that it stands in front of."""
    dropped: bool = False
    """Its content is not written."""
    last: bool = False
    """It stands in the last user's turn."""


@dataclass(frozen=True)
class Findings:
    """What rendering showed of one template."""

    name: str
    parts: Parts
    system: SystemParts | None
    """None: a system message is refused."""
    question: str
    """All that is written before a single question's text."""
    empty: str | None
    """The same where an empty system message comes first; None if that is refused."""

    def candidates(self, bos: str) -> Iterator[ChatTemplate]:
        """Yield the forms that the differences allow, the likelier ones first."""
        parts, system = self.parts, self.system
        head = parts.head[len(bos) :]
        shared, *nothing = prefixes(head, parts.rest)
        for user_prefix in (shared, None, *nothing):
            if user_prefix is None:
                yield from self._first_user(bos, system) if system else ()
                continue
            plain = self._plain(bos, user_prefix)
            before = head[: len(head) - len(user_prefix)]
            if parts.last or (system and system.last):
                yield from self._last_user(replace(plain, bos=bos + before))
            plain = replace(plain, last_question=parts.last)
            if system is None:
                yield replace(plain, no_system=before)
            else:
                yield from self._own_turn(plain, before, system)

    def _plain(self, bos: str, user_prefix: str) -> ChatTemplate:
        parts = self.parts
        return ChatTemplate(
            name=self.name,
            user=Markup(user_prefix, parts.user_suffix),
            assistant=Markup(parts.assistant_prefix, parts.assistant_suffix),
            generation_prompt=parts.generation_prompt,
            bos=bos,
            dropped=frozenset({"assistant"}) if parts.unanswered else frozenset(),
            separator=parts.rest[: len(parts.rest) - len(user_prefix)],
        )

    def _own_turn(self, plain: ChatTemplate, before: str, system: SystemParts) -> Iterator[ChatTemplate]:
        pre, post = system.before, system.after
        if not (pre.startswith(plain.bos) and post.endswith(plain.user.prefix)):
            return
        markup = Markup(pre[len(plain.bos) :], post[: len(post) - len(plain.user.prefix)])
        dropped = plain.dropped | ({"system"} if system.dropped else set())
        yield self._with_default(replace(plain, system=markup, dropped=dropped), before)

    def _first_user(self, bos: str, system: SystemParts) -> Iterator[ChatTemplate]:
        """Yield the form whose system block stands between the user's prefix and the question."""
        parts = self.parts
        head, pre = parts.head[len(bos) :], system.before[len(bos) :]
        user_prefix = common_prefix(pre, head)
        while not parts.rest.endswith(user_prefix):
            user_prefix = user_prefix[:-1]
        if user_prefix and not system.dropped and not system.last:
            block = Markup(pre[len(user_prefix) :], system.after)
            plain = replace(self._plain(bos, user_prefix), system=block, system_placement="first_user")
            yield self._with_default(plain, head[len(user_prefix) :])

    def _last_user(self, plain: ChatTemplate) -> Iterator[ChatTemplate]:
        """Yield the form whose system block stands in front of the last question."""
        parts, system = self.parts, self.system
        plain = replace(plain, system_placement="last_user", no_system=parts.last)
        if system is None:
            yield plain
        elif system.last:
            yield self._with_default(replace(plain, system=Markup(system.before, system.after)), parts.last)

    def _with_default(self, form: ChatTemplate, before: str) -> ChatTemplate:
        """Read the text that stands where the system block would as a default system message, or as such."""
        markup = form.system
        assert markup is not None
        inner = len(before) - len(markup.prefix) - len(markup.suffix)
        framed = before.startswith(markup.prefix) and before.endswith(markup.suffix) and inner >= 0
        if framed and "system" not in form.dropped and (markup.prefix or markup.suffix):
            form = replace(form, default_system=before[len(markup.prefix) : len(markup.prefix) + inner])
        else:
            form = replace(form, no_system=before)
        return form if self.empty is None else self._with_empty(form, markup.around(""), self.empty)

    def _with_empty(self, form: ChatTemplate, block: str, empty: str) -> ChatTemplate:
        if empty == self.question:
            return replace(form, empty_system="absent")
        last, own_turn = form.last_question, form.system_placement == "own_turn"
        lead = form.bos + ("" if own_turn else form.user.prefix)
        tail = form.user.prefix + last if own_turn else last
        if not (empty.startswith(lead) and empty.endswith(tail) and len(empty) >= len(lead) + len(tail)):
            return form
        text = empty[len(lead) : len(empty) - len(tail)]
        return form if text == block else replace(form, empty_text=text)
