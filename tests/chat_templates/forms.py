"""Random forms and conversations, for properties that hold for all of them."""

from __future__ import annotations

from hypothesis import strategies as st

from chat_templates.dates import marked
from chat_templates.template import ChatTemplate, Markup, Message
from chat_templates.thinking import STRIPS, Thinking, Thought

__all__ = ["conversations", "forms", "thinkings"]

_texts = st.text(
    st.sampled_from("ab<|>[]/ \n\t\r\\'\"{}%#-_é｜▁\u3000\u00a0\u200d\u2028😊\x00\x7f"), max_size=8
)
_dated_texts = _texts | st.builds(
    "{}{}{}".format, _texts, st.sampled_from(("%d %b %Y", "%Y'%m", "%e %B")).map(marked), _texts
)
_markups = st.builds(Markup, prefix=_texts, suffix=_texts)


def forms() -> st.SearchStrategy[ChatTemplate]:
    """Every field of a form, filled with texts that are hard to quote."""
    return st.builds(
        ChatTemplate,
        name=_texts,
        user=_markups,
        assistant=_markups,
        generation_prompt=_texts,
        system=st.none() | _markups | st.builds(Markup, _dated_texts, _dated_texts),
        tool=st.none() | _markups,
        bos=_dated_texts,
        system_placement=st.sampled_from(("own_turn", "first_user", "last_user")),
        default_system=st.none() | _texts,
        no_system=_dated_texts,
        empty_system=st.sampled_from(("block", "absent")),
        empty_text=st.none() | _texts,
        separator=_texts,
        begun=st.just("") | _dated_texts,
        last_question=st.just("") | _dated_texts,
        trimmed=st.frozensets(st.sampled_from(("system", "user", "assistant", "tool"))),
        dropped=st.sampled_from([frozenset(), frozenset({"system"}), frozenset({"user", "assistant"})]),
        thinking=st.none() | thinkings(),
    )


def thinkings() -> st.SearchStrategy[Thinking]:
    """Every way to treat thoughts, in texts and in fields of their own."""
    strips = st.sampled_from(STRIPS)
    thoughts = st.none() | st.builds(Thought, _texts, _texts, strip=strips, strip_answer=strips)
    return st.builds(
        Thinking,
        strip_history=st.booleans(),
        strip_after=strips,
        strip_current=st.booleans(),
        on=st.none() | _texts,
        off=st.none() | _texts,
        past=thoughts,
        current=thoughts,
    )


def conversations() -> st.SearchStrategy[list[Message]]:
    """Up to five messages of any roles in any order."""
    contents = _texts | st.builds("<think>{}</think>{}".format, _texts, _texts)
    message = st.fixed_dictionaries(
        {"role": st.sampled_from(("user", "assistant", "system", "tool")), "content": contents},
        optional={"reasoning_content": _texts},
    )
    return st.lists(message, max_size=5)
