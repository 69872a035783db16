"""Which files of a repository a checkpoint needs.

Repositories carry the same weights several times (safetensors, .bin, original/*.pth, consolidated, ONNX,
GGUF): one set is enough, the one that `Weights.open` would read. Programs (*.py) are never taken. Does not
know how a file is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from checkpoint.weights import INDEX, SINGLE, TORCH_INDEX, TORCH_SINGLE

__all__ = ["HubFile", "shards", "small_files", "weight_index", "weights_elsewhere"]

_SMALL = re.compile(
    r"config\.json|generation_config\.json|.*\.jinja|chat_template\.json"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|merges\.txt|vocab\.txt|.*\.tiktoken|(tokenizer|sentencepiece|spiece)(\.bpe)?\.model"
    r"|(preprocessor|processor|quantize|hf_quant)_config\.json|LICENSE.*|NOTICE.*",
    re.IGNORECASE,
)
_OTHER_WEIGHTS = re.compile(
    r".*\.(gguf|pth|pt|onnx|msgpack|h5|bin|safetensors|mlmodelc|tflite)", re.IGNORECASE
)


@dataclass(frozen=True)
class HubFile:
    """A file at the root of a repository."""

    name: str
    size: int
    """Bytes."""
    sha256: str | None = None
    """Hexadecimal, where the hub tells it: for large files."""
    git_blob: str | None = None
    """git's object id (SHA-1 of "blob SIZE\\0" and the content), for small ones."""

    @property
    def etag(self) -> str | None:
        """What names the content on the Hugging Face Hub, and in its cache."""
        return self.sha256 or self.git_blob


def small_files(files: Mapping[str, HubFile]) -> list[HubFile]:
    """Return config, tokenizer, chat template, licence: everything but the weights and their index."""
    return [file for name, file in files.items() if _SMALL.fullmatch(name)]


def weight_index(files: Mapping[str, HubFile]) -> tuple[HubFile | None, HubFile | None]:
    """Return (the single file of weights, the index of shards): one of them, safetensors before .bin."""
    for single, index in ((SINGLE, INDEX), (TORCH_SINGLE, TORCH_INDEX)):
        if single in files:
            return files[single], None
        if index in files:
            return None, files[index]
    return None, None


def shards(files: Mapping[str, HubFile], weight_map: Mapping[str, str]) -> tuple[list[HubFile], list[str]]:
    """Return the shards that an index names, and the names of those that the repository lacks."""
    names = list(dict.fromkeys(weight_map.values()))
    return [files[name] for name in names if name in files], [name for name in names if name not in files]


def weights_elsewhere(names: Sequence[str]) -> list[str]:
    """Return the files that are weights of other forms, to say what a repository has instead."""
    return [name for name in names if _OTHER_WEIGHTS.fullmatch(name)]
