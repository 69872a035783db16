"""The dialects of the chat template, one module an engine; see `base` for what a dialect is."""

from collections.abc import Mapping

from chat_templates.dialects import gguf, lmdeploy, ollama
from chat_templates.dialects.base import Dialect, DialectFacts, DialectRefused
from chat_templates.dialects.jinja import JinjaDialect
from chat_templates.template import ChatTemplate

__all__ = ["DIALECTS", "Dialect", "DialectFacts", "DialectRefused", "known_limits"]

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (JinjaDialect(), gguf.GgufDialect(), ollama.OllamaDialect(), lmdeploy.LmdeployDialect())
}
"""Every dialect by name, the most faithful first."""


def known_limits(name: str, form: ChatTemplate | None, facts: DialectFacts) -> Mapping[str, str]:
    """Return why the dialect `name` cannot be exact for `form`, in words, by class of conversation.

    It explains a difference that was measured; it never takes the place of measuring.
    """
    if form is None:
        return {}
    limits = {"gguf": gguf.limits, "ollama": ollama.limits, "lmdeploy": lmdeploy.limits}
    return limits[name](form, facts) if name in limits else {}
