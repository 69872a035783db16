"""`inspect_model`: everything there is to say about a checkpoint and its chat template, in one object.

Joins the checkpoint's survey with the template's findings and the stop ids. Never raises for a bad
checkpoint: what is wrong is a finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_templates.findings import inspect_template
from chat_templates.sources import TemplateSource, load_source
from chat_templates.stops import Stops, analyse_stops
from checkpoint import Checkpoint, Finding
from checkpoint.inspect import Survey, survey
from errors import CheckpointError, PortsideError, TemplateError

__all__ = ["Inspection", "inspect_model"]


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint is, and what would go wrong when it is served."""

    survey: Survey
    source: TemplateSource | None
    """The chat template; None when there is none, or none that works."""
    stops: Stops | None
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that keep the checkpoint from being served at all."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.survey.name,
            "path": str(self.survey.path),
            **_model_facts(self.survey.checkpoint),
            "template": self.source.description if self.source else None,
            "stop_ids": list(self.stops.ids) if self.stops else [],
            "stop_strings": list(self.stops.strings) if self.stops else [],
            "findings": [finding.as_json() for finding in self.findings],
        }

    def rows(self) -> Mapping[str, str]:
        """The facts as label and text, for a table; what is not known is left out."""
        facts = self.as_json()
        stops = [f"{text} ({number})" for number, text in self._stop_names()]
        sizes = ("parameters", "bytes", "vocabulary", "context_length")
        rows = {
            "name": facts["name"],
            "architecture": facts["architecture"],
            **{key.replace("_", " "): f"{facts[key]:,}" if facts[key] is not None else None for key in sizes},
            "dtype": facts["dtype"],
            "template": facts["template"],
            "stops on": ", ".join(stops),
        }
        return {key: value for key, value in rows.items() if value}

    def _stop_names(self) -> list[tuple[int, str]]:
        checkpoint, stops = self.survey.checkpoint, self.stops
        if checkpoint is None or stops is None:
            return []
        tokens = checkpoint.tokenizer.tokens
        return [(number, tokens[number] or "?") for number in stops.ids]


def inspect_model(path: Path, spec: str = "checkpoint", *, weights: bool = True) -> Inspection:
    """Inspect the checkpoint at `path` as it would be served with the template source `spec`.

    Without `weights` they need not be there (only the small files of a hub's repository were fetched).

    Raises only for a `spec` that names nothing: a wrong family or file is the command line's fault.
    """
    found = survey(path, weights=weights)
    findings = list(found.findings)
    if found.checkpoint is None:
        return Inspection(found, None, None, tuple(findings))
    source, stops = None, None
    try:
        source = load_source(spec, found.checkpoint)
        stops = analyse_stops(source, found.checkpoint)
        findings += inspect_template(found.checkpoint, source)
        findings += [finding for finding in stops.findings if finding not in findings]
    except TemplateError:
        if spec != "checkpoint":
            raise
        findings += inspect_template(found.checkpoint)
    except CheckpointError:
        pass  # a damaged tokenizer: the survey has the finding
    return Inspection(found, source, stops, tuple(findings))


def _model_facts(checkpoint: Checkpoint | None) -> dict[str, Any]:
    """Return the facts that need the config and the headers of the weights; None for what cannot be read."""
    facts: dict[str, Any] = dict.fromkeys(
        ("architecture", "dtype", "context_length", "vocabulary", "parameters", "bytes")
    )
    if checkpoint is None:
        return facts
    config = checkpoint.config
    facts |= {key: getattr(config, key) for key in ("architecture", "dtype", "context_length")}
    try:
        facts["vocabulary"] = len(checkpoint.tokenizer.tokens)
        facts |= {"parameters": checkpoint.weights.parameters, "bytes": checkpoint.weights.bytes}
    except PortsideError:
        pass  # the survey has the finding
    return facts
