"""Conversations that trainers are asked about, and what a form must say of them."""

from __future__ import annotations

from collections.abc import Iterator

from chat_templates.template import ChatTemplate, Message

__all__ = ["check", "conversations"]

_CONTENTS = (("Hello {input}", "Hi there."), ("two\n lines ", " {{ odd }}"), ("再来", "fin 🙂\n"))


def conversations(*, system: bool = True, answers: tuple[str, ...] = ()) -> Iterator[tuple[Message, ...]]:
    """Yield one to three turns, each without a system message, with one, and with an empty one.

    `answers` stand in the place of the plain ones.
    """
    pairs = [(question, answers[i] if answers else answer) for i, (question, answer) in enumerate(_CONTENTS)]
    for turns in (1, 2, 3):
        talk = tuple(
            {"role": role, "content": content}
            for pair in pairs[:turns]
            for role, content in zip(("user", "assistant"), pair, strict=True)
        )
        yield talk
        if system:
            yield ({"role": "system", "content": "Be {brief}\n"}, *talk)
            yield ({"role": "system", "content": ""}, *talk)


def check(
    form: ChatTemplate, messages: tuple[Message, ...], trained: str, prompts: list[str], end: str
) -> None:
    """Assert that the form says a sample's text up to its `end`, and the prompt in front of each answer."""
    assert form.render(messages, add_generation_prompt=False) + end == trained
    places = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    for place, prompt in zip(places, prompts, strict=True):
        assert form.render(messages[:place]) == prompt
