"""The dialects of the chat template, one module an engine; see `base` for what a dialect is."""

from chat_templates.dialects.base import Dialect, DialectFacts, DialectRefused

__all__ = ["Dialect", "DialectFacts", "DialectRefused"]
