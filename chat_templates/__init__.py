"""The chat template a model was trained with: read once, written for every engine, proven equal.

`load_source` reads it, `prove` measures every dialect of it, `analyse_stops` says where the model stops, and
`write_served_view` shows an engine the checkpoint with both put right.
"""

from chat_templates.dialects import DIALECTS, Dialect, DialectFacts, DialectRefused
from chat_templates.dialects.gguf import ollama_prefers_gguf
from chat_templates.export import dialect_texts, export_dialects
from chat_templates.findings import inspect_template, template_mismatch
from chat_templates.inspection import Inspection, inspect_model
from chat_templates.jinja_engine import JinjaRequest, JinjaWorker, RenderFailed
from chat_templates.library import Family, FamilyMatch, Matches, library, match_families, trainer_templates
from chat_templates.proof import facts_of, prove
from chat_templates.proof_results import ClassResult, DialectProof, Difference, Proof
from chat_templates.served_view import write_served_view
from chat_templates.sources import TemplateSource, families, load_source
from chat_templates.stops import Stops, analyse_stops
from chat_templates.template import ChatTemplate, Markup, Message, Thinking

__all__ = [
    "DIALECTS",
    "ChatTemplate",
    "ClassResult",
    "Dialect",
    "DialectFacts",
    "DialectProof",
    "DialectRefused",
    "Difference",
    "Family",
    "FamilyMatch",
    "Inspection",
    "JinjaRequest",
    "JinjaWorker",
    "Markup",
    "Matches",
    "Message",
    "Proof",
    "RenderFailed",
    "Stops",
    "TemplateSource",
    "Thinking",
    "analyse_stops",
    "dialect_texts",
    "export_dialects",
    "facts_of",
    "families",
    "inspect_model",
    "inspect_template",
    "library",
    "load_source",
    "match_families",
    "ollama_prefers_gguf",
    "prove",
    "template_mismatch",
    "trainer_templates",
    "write_served_view",
]
