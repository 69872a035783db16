"""Checks of the files beside the weights: leftovers, duplicate chat templates, the directory's own name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from checkpoint.findings import Finding
from checkpoint.model import Checkpoint
from checkpoint.weights import list_names

__all__ = ["check_files", "check_lmdeploy_path", "check_templates"]


def check_files(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Yield what is wrong with the set of files: a left-over adapter, no generation_config.json."""
    names = set(list_names(checkpoint.path))
    if "adapter_config.json" in names:
        yield Finding(
            "adapter-leftover",
            "warning",
            f"{checkpoint.path} holds an adapter_config.json beside the merged model: with peft installed, "
            "transformers loads the base model it names instead of these weights.",
            "Move adapter_config.json and adapter_model.* out of the directory.",
        )
    if not checkpoint.generation.exists:
        ids = checkpoint.config.eos_token_ids
        yield Finding(
            "generation-config-missing",
            "info" if ids else "warning",
            f"{checkpoint.path} has no generation_config.json: engines take the stop ids of config.json "
            f"({', '.join(map(str, ids)) or 'none'}).",
            'Write one with the ids that end a turn, for instance {"eos_token_id": [2]}.',
        )


def check_templates(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Yield a finding where two different chat templates are stored.

    transformers (and so vLLM) reads chat_template.jinja first; gguf-py's SpecialVocab, which llama.cpp's
    converter uses, reads tokenizer_config.json first.
    """
    files = checkpoint.chat_templates
    if files.jinja_file is None or files.tokenizer_config is None:
        return
    if _normal(files.jinja_file) != _normal(files.tokenizer_config):
        yield Finding(
            "template-duplicates-differ",
            "warning",
            f"{checkpoint.path} has two different chat templates: transformers and vLLM use "
            "chat_template.jinja, llama.cpp's converter takes the one in tokenizer_config.json.",
            "Keep the one the model was trained with; Portside uses chat_template.jinja for every engine.",
        )


def _normal(text: str) -> str:
    return text.replace("\r\n", "\n").removesuffix("\n")  # Jinja drops one final newline


_LMDEPLOY_NAMES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("cogvlm", ("cogvlm",), ("cogvlm2",)),
    ("vicuna", ("vicuna",), ("llava",)),
    ("vicuna", ("wizardlm",), ()),
    ("llava-v1", ("llava", "v1"), ("v1.6-34b", "mistral")),
    ("llava-v1", ("llava-1.5",), ()),
    ("llama2", ("llama-2",), ()),
    ("llama2", ("llama2",), ()),
    ("codellama", ("codellama",), ()),
    ("chatglm", ("chatglm2",), ()),
    ("mistral", ("mistral", "instruct"), ()),
    ("mistral", ("mistral", "llava"), ()),
    ("mistral", ("mixtral", "instruct"), ()),
    ("mistral", ("mixtral", "llava"), ()),
    ("internvl-zh", ("internvl-chat", "v1-1"), ()),
    ("deepseek-vl", ("deepseek-vl", "chat"), ()),
    ("deepseek-vl2", ("deepseek-vl2",), ()),
    ("llava-chatml", ("llava", "v1.6-34b"), ()),
)
"""LMDeploy 0.18's built-in templates in the order it tries them. Of the path in lower case: the words that
must all occur, and the words that must not."""


def check_lmdeploy_path(path: Path) -> Iterator[Finding]:
    """Yield a finding where a word anywhere in the path makes LMDeploy ignore the checkpoint's template."""
    text = str(path.absolute()).lower()
    for template, needed, forbidden in _LMDEPLOY_NAMES:
        if all(word in text for word in needed) and not any(word in text for word in forbidden):
            yield Finding(
                "lmdeploy-path-hijack",
                "warning",
                f"The path {path.absolute()} contains {' and '.join(map(repr, needed))}: LMDeploy without "
                f"--chat-template uses its built-in {template!r} template instead of the checkpoint's.",
                "Rename the directory, or always start LMDeploy with --chat-template.",
            )
            return
