"""A LoRA adapter merged into its base model, written as a checkpoint of its own.

Knows which small files go along: the base model's, with the tokenizer and the chat template that were saved
with the adapter in place of its own. Tensors are written as safetensors, a few rows at a time, in the order
and the dtypes of the base model. Neither the base model nor the adapter is ever written to.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoint.adapted import config_changes, head_name
from checkpoint.adapter import ADAPTER_CONFIG, read_adapter
from checkpoint.findings import CheckpointFlaw
from checkpoint.model import Checkpoint, changed, stored_templates
from checkpoint.safetensors import TensorInfo, header_bytes
from checkpoint.stored_tensors import quantized_weights
from checkpoint.weights import INDEX, SINGLE, Weights, list_names
from errors import OutputError
from files import dump_json, replacing_directory

if TYPE_CHECKING:
    import numpy as np

__all__ = ["MergePlan", "MergedFile", "plan_merge", "run_merge"]

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

SHARD_BYTES = 5_000_000_000
"""The largest file of weights, as transformers writes them; a larger tensor has one of its own."""
_BLOCK = 1 << 19
"""Elements that are merged at a time."""

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".index.json")
_NOT_OF_THE_MERGED = ("readme.md", "chat_template.jinja", "chat_template.json", ADAPTER_CONFIG)
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True)
class _Shard:
    name: str
    tensors: tuple[TensorInfo, ...]

    @property
    def bytes(self) -> int:
        return sum(info.nbytes for info in self.tensors)


@dataclass(frozen=True)
class MergePlan:
    """What will be written where."""

    base: Checkpoint
    checkpoint: Checkpoint
    """The base model with the adapter, which is merged in as its weights are read."""
    adapter: Path
    directory: Path
    shards: tuple[_Shard, ...]
    small: Mapping[str, Path | str]
    """File name -> the file to be copied, or the text to be written."""
    merged: tuple[str, ...]
    """Tensors to which a product of matrices is added."""
    replaced: tuple[str, ...]
    """Tensors that were trained whole."""
    changes: Mapping[str, Any]
    """Entries of config.json that hold no longer, as they must be."""

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def tokenizer(self) -> str:
        """Whose tokenizer is used: "adapter" or "base"."""
        return "adapter" if self.checkpoint.tokenizer_path == self.adapter else "base"

    @property
    def template(self) -> str | None:
        """Whose chat template is used; None where there is none."""
        if self.checkpoint.chat_template is None:
            return None
        return "base" if self.checkpoint.chat_templates == self.base.chat_templates else "adapter"

    def as_json(self) -> dict[str, Any]:
        return {
            "base": str(self.base.path),
            "adapter": str(self.adapter),
            "path": str(self.directory),
            "bytes": self.bytes,
            "shards": [{"name": shard.name, "bytes": shard.bytes} for shard in self.shards],
            "small_files": {
                name: str(source) if isinstance(source, Path) else None for name, source in self.small.items()
            },
            "tokenizer": self.tokenizer,
            "template": self.template,
            "config_changes": dict(self.changes),
            "merged": list(self.merged),
            "replaced": list(self.replaced),
        }


@dataclass(frozen=True)
class MergedFile:
    """One file of weights that has been written."""

    path: Path
    bytes: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        return {"path": str(self.path), "bytes": self.bytes, "sha256": self.sha256}


def plan_merge(
    base: Path,
    adapter: Path,
    directory: Path,
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> MergePlan:
    """Return the plan for the checkpoint in `directory` that `base` with `adapter` makes.

    `overwrite` allows an older checkpoint in `directory`, which is replaced as a whole once the new one is
    there. Raises `CheckpointFlaw` for what cannot be merged, `OutputError` for a directory that may not be
    written.
    """
    opened = Checkpoint.open(base)
    _refuse_quantized(opened)
    merged = opened.with_adapter(adapter)
    _check_place(opened, adapter, directory, overwrite=overwrite)
    read, weights = read_adapter(adapter), merged.weights
    changes = config_changes(opened.config, read, weights)
    # A head that is stored although it is tied says nothing, and after the merge not even what it said.
    idle = head_name(weights) if merged.config.tie_word_embeddings else None
    return MergePlan(
        base=opened,
        checkpoint=merged,
        adapter=adapter,
        directory=directory,
        shards=tuple(_shards([info for info in weights if info.name != idle], shard_bytes)),
        small=_small_files(opened, merged, changes),
        merged=tuple(read.pairs),
        replaced=tuple(name for name in read.replaced if name != idle),
        changes=changes,
    )


def _refuse_quantized(base: Checkpoint) -> None:
    if next(quantized_weights(base), None) is not None:
        raise CheckpointFlaw(
            "quantized-weights",
            f"{base.path} holds quantized weights ({base.config.quantization or 'packed integers'}), which "
            "nothing can be added to.",
            hint="Give the base model that they were quantized from, in bfloat16.",
        )


def _check_place(base: Checkpoint, adapter: Path, directory: Path, *, overwrite: bool) -> None:
    place = Path(os.path.realpath(directory))
    for source in (base.path, adapter):
        taken = Path(os.path.realpath(source))
        if place == taken or taken in place.parents or place in taken.parents:
            raise OutputError(
                f"{directory} is or holds, or lies in, {source}, and nothing is ever written there.",
                hint="Name another directory with -o.",
            )
    if not directory.exists() and not directory.is_symlink():
        return
    if directory.is_symlink() or not directory.is_dir():
        raise OutputError(f"{directory} is not a directory.", hint="Name another one with -o.")
    if not any(directory.iterdir()):
        return
    if not overwrite:
        raise OutputError(
            f"{directory} exists already.",
            hint="Name another directory with -o, or replace the checkpoint there with --overwrite.",
        )
    if not (directory / "config.json").is_file():
        raise OutputError(
            f"{directory} holds something that is no checkpoint, which --overwrite does not replace.",
            hint="Name another directory with -o.",
        )


def _shards(tensors: Sequence[TensorInfo], limit: int) -> Iterator[_Shard]:
    """Cut the tensors into files of at most `limit` bytes."""
    groups: list[list[TensorInfo]] = [[]]
    size = 0
    for info in tensors:
        if groups[-1] and size + info.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(info)
        size += info.nbytes
    for number, group in enumerate(groups, 1):
        name = SINGLE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        yield _Shard(name, tuple(group))


def _small_files(
    base: Checkpoint, merged: Checkpoint, changes: Mapping[str, Any]
) -> Mapping[str, Path | str]:
    files: dict[str, Path | str] = {
        name: base.path / name for name in list_names(base.path) if _belongs(base.path / name)
    }
    settings = merged.tokenizer_path
    if settings != base.path:
        # What the base model says of its tokens must not contradict what comes now.
        files = {name: source for name, source in files.items() if name not in _TOKENIZER_SETTINGS}
        brought = [name for name in list_names(settings) if _is_tokenizer_file(name)]
        files |= {name: settings / name for name in brought}
    template = merged.chat_templates.jinja_file
    if template is None and merged.chat_template != stored_templates(settings).tokenizer_config:
        template = merged.chat_template
    if template is not None:
        files["chat_template.jinja"] = template
    if changes:
        files["config.json"] = dump_json(changed(base.config.raw, changes))
    return dict(sorted(files.items()))


def _belongs(path: Path) -> bool:
    """Whether a file of the base model describes the merged one too."""
    name = path.name.lower()
    return path.is_file() and not (
        name.startswith((".", "adapter_model")) or name.endswith(_WEIGHTS) or name in _NOT_OF_THE_MERGED
    )


def _is_tokenizer_file(name: str) -> bool:
    return name in (*_VOCABULARIES, *_TOKENIZER_SETTINGS) or name.endswith(".tiktoken")


def run_merge(plan: MergePlan, *, progress: Progress | None = None) -> tuple[MergedFile, ...]:
    """Write the checkpoint of `plan`, and return its files of weights.

    Raises `OutputError` when the disk is full or refuses, `CheckpointFlaw` for merged weights that are not
    finite. On any failure nothing is left under the final name, and what was there before stays.
    """
    _check_space(plan)
    written: list[MergedFile] = []
    with replacing_directory(plan.directory) as partial:
        for shard in plan.shards:
            before = sum(shard.bytes for shard in plan.shards[: len(written)])
            size, digest = _write_shard(plan, shard, partial / shard.name, before, progress)
            written.append(MergedFile(plan.directory / shard.name, size, digest))
        if len(plan.shards) > 1:
            (partial / INDEX).write_text(dump_json(_index(plan)), encoding="utf-8")
        for name, source in plan.small.items():
            content = source.read_bytes() if isinstance(source, Path) else source.encode("utf-8")
            (partial / name).write_bytes(content)
    return tuple(written)


def _write_shard(
    plan: MergePlan, shard: _Shard, path: Path, before: int, progress: Progress | None
) -> tuple[int, str]:
    """Write one file of weights; return its size and SHA-256."""
    digest, data = hashlib.sha256(), 0
    with path.open("wb") as stream:
        described = [(info.name, info.dtype, info.shape) for info in shard.tensors]
        head = header_bytes(described, {"format": "pt"})
        stream.write(head)
        digest.update(head)
        for block in _blocks(plan.checkpoint.weights, shard):
            stream.write(block)
            digest.update(block)
            data += len(block)
            if progress is not None:
                progress(before + data, plan.bytes)
        stream.flush()
        os.fsync(stream.fileno())
    return len(head) + data, digest.hexdigest()


def _index(plan: MergePlan) -> dict[str, Any]:
    weight_map = {info.name: shard.name for shard in plan.shards for info in shard.tensors}
    return {"metadata": {"total_size": plan.bytes}, "weight_map": dict(sorted(weight_map.items()))}


def _check_space(plan: MergePlan) -> None:
    directory = plan.directory.absolute().parent
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    if plan.bytes > free:
        raise OutputError(
            f"The merged weights take {plan.bytes:,} bytes, but {directory} has only {free:,} bytes left.",
            hint="Free some space or choose another place with -o.",
        )


def _blocks(weights: Weights, shard: _Shard) -> Iterator[memoryview]:
    """Yield the bytes of the tensors, a few rows at a time."""
    import numpy as np

    for info in shard.tensors:
        if not (info.elements and info.shape):
            yield np.ascontiguousarray(weights.raw(info.name)).reshape(-1).view(np.uint8).data
            continue
        merged = weights.is_merged(info.name)
        rows = weights.rows(info.name)
        width = rows.shape[-1]
        count, step = info.elements // width, max(1, _BLOCK // width)
        for start in range(0, count, step):
            block = np.ascontiguousarray(rows.read(start, min(start + step, count)))
            if merged:
                _check_finite(info, block)
            yield block.reshape(-1).view(np.uint8).data


def _check_finite(info: TensorInfo, block: np.ndarray[Any, Any]) -> None:
    import numpy as np

    finite = (block & 0x7F80) != 0x7F80 if info.dtype == "BF16" else np.isfinite(block)
    if not finite.all():
        raise CheckpointFlaw(
            "merge-not-finite",
            f"Merging gives {int((~finite).sum())} values of {info.name} that are NaN or do not fit into "
            f"{info.dtype}.",
            hint="The training went wrong, or the base model is in float16: take it in bfloat16.",
        )
