"""What is made from a checkpoint before an engine starts, kept in the cache under a name made of its content.

    gguf/KEY/NAME-TYPE.gguf     for llama.cpp
    templates/KEY.jinja         for llama.cpp, beside a GGUF file of somebody else's
    views/KEY/NAME              for engines that read checkpoints: links, with template and stop ids put right

KEY changes with the weights, the small files, the template, the stop ids, the type and Portside's version, so
nothing stale is ever served and nothing is made twice. Does not know engines.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from chat_templates import Stops, TemplateSource, write_served_view
from checkpoint import Checkpoint
from convert import ConversionPlan, plan_conversion, run_conversion
from deploy.digests import remember_digest
from deploy.engines.base import Progress
from files import cache_dir, write_text

__all__ = ["GgufArtifact", "TemplateArtifact", "ViewArtifact"]

_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""All that a conversion may read besides the weights."""


@dataclass(frozen=True)
class GgufArtifact:
    """A GGUF file of `checkpoint`; without `source` and `stops`, what the stock converter would write."""

    checkpoint: Checkpoint
    type: str
    source: TemplateSource | None = None
    stops: Stops | None = None

    @property
    def kind(self) -> str:
        return f"GGUF file ({self.type})"

    @cached_property
    def _plan(self) -> ConversionPlan:
        key = content_key(self.checkpoint, self.source, self.stops, type=self.type)
        directory = cache_dir() / "gguf" / key
        return plan_conversion(self.checkpoint, (self.type,), directory, source=self.source, stops=self.stops)

    @property
    def path(self) -> Path:
        return self._plan.files[0].path

    @property
    def bytes(self) -> int:
        """Size of the finished file."""
        return self._plan.bytes

    def is_ready(self) -> bool:
        return self.path.is_file()

    def make(self, progress: Progress | None = None) -> None:
        for file in run_conversion(self._plan, progress=progress):
            remember_digest(file.path, file.sha256)


@dataclass(frozen=True)
class ViewArtifact:
    """A served view of `checkpoint`: links to its files, and the right template and stop ids."""

    checkpoint: Checkpoint
    source: TemplateSource
    stops: Stops
    extras: tuple[tuple[str, str], ...] = ()
    """Further files: (name, text)."""

    @property
    def kind(self) -> str:
        return "served view"

    @cached_property
    def path(self) -> Path:
        place = str(self.checkpoint.path.resolve())
        key = content_key(self.checkpoint, self.source, self.stops, place=place, **dict(self.extras))
        return cache_dir() / "views" / key / self.checkpoint.name

    def is_ready(self) -> bool:
        return self.path.is_dir()

    def make(self, progress: Progress | None = None) -> None:
        write_served_view(self.checkpoint, self.source, self.stops, self.path, extras=dict(self.extras))


@dataclass(frozen=True)
class TemplateArtifact:
    """The Jinja text of `source` as a file, for an engine that loads a GGUF file of somebody else's."""

    source: TemplateSource

    @property
    def kind(self) -> str:
        return "chat template file"

    @property
    def path(self) -> Path:
        key = hashlib.sha256(self.source.gguf_jinja.encode()).hexdigest()[:16]
        return cache_dir() / "templates" / f"{key}.jinja"

    def is_ready(self) -> bool:
        return self.path.is_file()

    def make(self, progress: Progress | None = None) -> None:
        write_text(self.path, self.source.gguf_jinja)


def content_key(
    checkpoint: Checkpoint, source: TemplateSource | None, stops: Stops | None, **more: str
) -> str:
    """Return 16 hexadecimal digits that stand for everything an artifact depends on."""
    facts: Mapping[str, Any] = {
        "portside": importlib.metadata.version("portside"),
        "name": checkpoint.name,
        "weights": checkpoint.weights.fingerprint(),
        "files": {name: _digest(checkpoint.path / name) for name in _SMALL_FILES},
        "template": None if source is None else source.gguf_jinja,
        "stops": None if stops is None else list(stops.ids),
        **more,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
