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

from checkpoint.adapted import adapted, config_changes
from checkpoint.adapter import ADAPTER_CONFIG, adapter_flaw, read_adapter
from checkpoint.config import GenerationConfig, ModelConfig
from checkpoint.findings import CheckpointFlaw
from checkpoint.jsonfile import file_size, read_object, read_text
from checkpoint.tokenizer import Tokenizer
from checkpoint.weights import Weights

__all__ = ["ChatTemplates", "Checkpoint", "brings_tokenizer", "changed", "stored_templates"]


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
    tokenizer_path: Path
    """The directory of the tokenizer's files: `path`, or the adapter's where it brings a tokenizer."""
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
        generation = path / "generation_config.json"
        return cls(
            path,
            ModelConfig.parse(raw, path / "config.json"),
            GenerationConfig.parse(read_object(generation), generation),
            stored_templates(path),
            path,
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
        return Tokenizer.open(self.tokenizer_path)

    @cached_property
    def weights(self) -> Weights:
        weights = Weights.open(self.path)
        return weights if self.adapter is None else adapted(weights, read_adapter(self.adapter), self.adapter)

    def with_adapter(self, adapter: Path | None) -> Checkpoint:
        """Return this checkpoint with the LoRA adapter in directory `adapter` merged into its weights.

        A tokenizer and a chat template that were saved with the adapter are those it was trained with, and
        come instead of the base model's. Raises `CheckpointFlaw` for what cannot be merged.
        """
        if adapter is None:
            return self
        _require_directory(adapter)
        read = read_adapter(adapter)
        changes = config_changes(self.config, read, adapted(Weights.open(self.path), read, adapter))
        brought = stored_templates(adapter)
        return replace(
            self,
            adapter=adapter,
            config=ModelConfig.parse(changed(self.config.raw, changes), self.path / "config.json"),
            chat_templates=self.chat_templates if brought == ChatTemplates(None, None) else brought,
            tokenizer_path=adapter if brings_tokenizer(adapter) else self.path,
        )


def brings_tokenizer(adapter: Path) -> bool:
    """Whether a whole tokenizer was saved with the adapter in directory `adapter`."""
    return any(file_size(adapter / name) is not None for name in ("tokenizer.json", "tokenizer.model"))


def changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object of config.json with `changes` made, in the text model's part too if it has one."""
    text = config.get("text_config")
    nested = {"text_config": {**text, **changes}} if isinstance(text, dict) and changes else {}
    return {**config, **nested, **changes}


def stored_templates(path: Path) -> ChatTemplates:
    config = read_object(path / "tokenizer_config.json") or {}
    return ChatTemplates(read_text(path / "chat_template.jinja"), _stored_template(config, path))


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
    if (path / ADAPTER_CONFIG).exists():
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
