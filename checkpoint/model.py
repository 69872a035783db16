"""`Checkpoint`: a merged Hugging Face model directory as typed facts.

Opening reads the small JSON files and the chat template; tokenizer and weights are read when they are first
asked for. Nothing is ever written into the directory, no code from it is ever run. Does not know any engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from checkpoint.adapter import read_adapter
from checkpoint.config import GenerationConfig, ModelConfig
from checkpoint.findings import CheckpointFlaw
from checkpoint.jsonfile import read_object, read_text
from checkpoint.tokenizer import Tokenizer
from checkpoint.weights import Weights, adapter_flaw

__all__ = ["ChatTemplates", "Checkpoint"]


@dataclass(frozen=True)
class ChatTemplates:
    """The places where a checkpoint may keep its chat template."""

    jinja_file: str | None
    """The text of chat_template.jinja, newlines as stored."""
    tokenizer_config: str | None
    """`chat_template` of tokenizer_config.json (of a list, the entry named "default")."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model directory whose small files have been read and checked."""

    path: Path
    config: ModelConfig
    generation: GenerationConfig
    chat_templates: ChatTemplates
    adapter: Path | None = None
    """A LoRA adapter that is merged into the weights as they are read."""

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Read the directory `path`. Raises `CheckpointError`, which names the file and its flaw."""
        path = Path(path)
        _require_directory(path)
        raw = read_object(path / "config.json")
        if raw is None:
            raise _no_config(path)
        tokenizer_config = read_object(path / "tokenizer_config.json") or {}
        generation = path / "generation_config.json"
        return cls(
            path,
            ModelConfig.parse(raw, path / "config.json"),
            GenerationConfig.parse(read_object(generation), generation),
            ChatTemplates(read_text(path / "chat_template.jinja"), _stored_template(tokenizer_config, path)),
        )

    @property
    def name(self) -> str:
        """The directory's name, also where the path was given as "." or with a trailing slash."""
        return self.path.absolute().name or self.path.resolve().name or "model"

    @property
    def chat_template(self) -> str | None:
        """What transformers would use: chat_template.jinja, else tokenizer_config.json's."""
        files = self.chat_templates
        return files.jinja_file if files.jinja_file is not None else files.tokenizer_config

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.open(self.path)

    @cached_property
    def weights(self) -> Weights:
        weights = Weights.open(self.path)
        return weights if self.adapter is None else weights.adapted(read_adapter(self.adapter), self.adapter)

    def with_adapter(self, adapter: Path | None) -> Checkpoint:
        """Return this checkpoint with the LoRA adapter in directory `adapter` merged into its weights."""
        return self if adapter is None else replace(self, adapter=adapter)


def _require_directory(path: Path) -> None:
    hint = "Give the directory of a merged Hugging Face checkpoint; `portside sample DIR` writes one to try."
    try:
        if path.is_dir():
            return
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise CheckpointFlaw("unreadable", f"{path!s} cannot be read: {error}.", hint=hint) from error
    if not exists:
        raise CheckpointFlaw("not-a-directory", f"{path} does not exist.", hint=hint)
    if path.suffix == ".gguf":
        hint = "A GGUF file is the result of a conversion; start from the checkpoint it was made of."
    raise CheckpointFlaw("not-a-directory", f"{path} is not a directory.", hint=hint)


def _no_config(path: Path) -> CheckpointFlaw:
    if (path / "adapter_config.json").exists():
        return adapter_flaw(path)
    nested = sorted(entry.name for entry in path.iterdir() if (entry / "config.json").is_file())
    return CheckpointFlaw(
        "no-config",
        f"{path} has no config.json, so it is not a Hugging Face checkpoint.",
        hint=f"Did you mean {path / nested[-1]}?" if nested else "Give the directory that holds config.json.",
    )


def _stored_template(config: Mapping[str, Any], path: Path) -> str | None:
    value = config.get("chat_template")
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if _is_named(item)}
        value = named.get("default")
    if value is not None and not isinstance(value, str):
        raise CheckpointFlaw(
            "tokenizer-damaged",
            f"{path / 'tokenizer_config.json'} has a chat_template that is neither text nor named texts.",
            hint="Copy the file from the base model, or write the template to chat_template.jinja.",
        )
    return value


def _is_named(item: object) -> bool:
    return isinstance(item, dict) and isinstance(item.get("name"), str)
