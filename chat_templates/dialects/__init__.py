"""The dialects of the chat template, one module an engine; see `base` for what a dialect is."""

from collections.abc import Mapping

from chat_templates.dialects import lmdeploy, ollama
from chat_templates.dialects.base import Dialect, DialectFacts, DialectRefused
from chat_templates.dialects.jinja import JinjaDialect
from chat_templates.template import ChatTemplate

__all__ = ["DIALECTS", "Dialect", "DialectFacts", "DialectRefused", "known_limits"]

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect for dialect in (JinjaDialect(), ollama.OllamaDialect(), lmdeploy.LmdeployDialect())
}
"""Every dialect by name, the most faithful first."""


def known_limits(name: str, form: ChatTemplate | None, facts: DialectFacts) -> Mapping[str, str]:
    """Return why the dialect `name` cannot be exact for `form`, in words, by class of conversation.

    It explains a difference that was measured; it never takes the place of measuring.
    """
    if form is None:
        return {}
    if name == "ollama":
        return ollama.limits(form, facts)
    return lmdeploy.limits(form, facts) if name == "lmdeploy" else {}
