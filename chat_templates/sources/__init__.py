"""Where chat templates come from: a Jinja found in a checkpoint or file, a TOML file, a bundled family."""

from chat_templates.sources.load import load_source, source_of_form, source_of_jinja
from chat_templates.sources.source import TemplateSource
from chat_templates.sources.toml_form import families

__all__ = ["TemplateSource", "families", "load_source", "source_of_form", "source_of_jinja"]
