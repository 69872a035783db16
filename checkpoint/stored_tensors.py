"""Checks of the set of tensors: quantized weights, a missing or ignored output matrix, missing layers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from checkpoint.findings import Finding
from checkpoint.fp8 import holds_fp8
from checkpoint.model import Checkpoint
from checkpoint.safetensors import TensorInfo
from checkpoint.weights import Weights, list_names

__all__ = ["check_tensors", "embedding_of", "quantized_weights"]

_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in", "word_embedding")
_HEADS = ("lm_head.weight", "output.weight", "embed_out.weight", "output_layer.weight")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,5})\.")
_OTHER_STACKS = ("vision", "visual", "audio", "encoder", "mtp")
_BITSANDBYTES = (".SCB", ".absmax", ".quant_map", ".nested_absmax", ".weight_format")
_INTEGERS = {"BOOL", "I16", "I32", "I64", "U16", "U32", "U64"}


def check_tensors(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Yield what the headers tell about the weights; of two matrices a few rows are compared."""
    yield from _pickled(checkpoint)
    yield from quantized_weights(checkpoint)
    yield from _fp8(checkpoint)
    yield from _integers(checkpoint)
    yield from _unlisted(checkpoint)
    yield from _shapes(checkpoint)
    yield from _layers(checkpoint)
    yield from _head(checkpoint)


def embedding_of(checkpoint: Checkpoint) -> TensorInfo | None:
    """Return the token embedding's matrix, or None where no tensor has one of the known names."""
    for info in checkpoint.weights:
        parts = info.name.split(".")
        stack = any(word in part for word in _OTHER_STACKS for part in parts)
        if len(info.shape) == 2 and not stack and any(name in parts[-2:-1] for name in _EMBEDDINGS):
            return info
    return None


def _pickled(checkpoint: Checkpoint) -> Iterator[Finding]:
    if checkpoint.weights.pickled:
        yield Finding(
            "torch-bin-weights",
            "info",
            "The weights are pickles (pytorch_model*.bin), which can run any program when they are loaded. "
            "Portside reads only tensors out of them; an engine that loads them runs what they say.",
            "Convert them for llamacpp and Ollama; for vLLM and LMDeploy save safetensors, unless you trust "
            "who made the files.",
        )


def _integers(checkpoint: Checkpoint) -> Iterator[Finding]:
    for info in checkpoint.weights:
        if info.dtype in _INTEGERS and info.name.endswith(".weight"):
            yield Finding(
                "dtype-unsupported",
                "error",
                f"Tensor {info.name} is stored as {info.dtype}: no engine takes integers for weights.",
                "Save the merged model again in bfloat16.",
            )
            return


def quantized_weights(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Yield a finding if the weights are no plain numbers, by config.json or by the tensors themselves."""
    method = checkpoint.config.quantization
    marks = [
        name for name in checkpoint.weights.names if name.endswith(_BITSANDBYTES) or "quant_state" in name
    ]
    if not marks and method is None:
        packed = (info for info in checkpoint.weights if info.dtype in {"U8", "I8"})
        marks = [info.name for info in packed if info.name.endswith(".weight")]
    if method == "bitsandbytes" or marks:
        sign = f"tensor {marks[0]}" if marks else "quantization_config"
        yield Finding(
            "bitsandbytes-weights",
            "error",
            f"The weights are stored quantized by bitsandbytes ({sign}): the adapter was merged into a "
            "model that had been loaded in 8 or 4 bits.",
            "Merge again into the base model loaded in bfloat16, without load_in_4bit or load_in_8bit.",
        )
    elif method is not None and not holds_fp8(checkpoint.config, checkpoint.weights):
        yield Finding(
            "quantized-weights",
            "warning",
            f"The weights are stored quantized ({method}): vLLM and LMDeploy may serve them, a conversion to "
            "GGUF needs the weights they were made of.",
            "For GGUF give the checkpoint from before the quantization.",
        )


def _fp8(checkpoint: Checkpoint) -> Iterator[Finding]:
    if holds_fp8(checkpoint.config, checkpoint.weights):
        yield Finding(
            "fp8-weights",
            "info",
            "The weights are stored in 8-bit floats with scales: vLLM and LMDeploy serve them on GPUs that "
            "compute in fp8; a conversion to GGUF multiplies them out.",
            "",
        )


def _unlisted(checkpoint: Checkpoint) -> Iterator[Finding]:
    weights = checkpoint.weights
    names = [name for name in list_names(checkpoint.path) if re.fullmatch(r"model.*\.safetensors", name)]
    spare = [name for name in names if name not in weights.headers]
    if spare:
        yield Finding(
            "shard-unlisted",
            "warning",
            f"{checkpoint.path} holds {', '.join(spare[:3])}{', …' if len(spare) > 3 else ''} beside the "
            f"weights in use ({next(iter(weights.headers))}): other readers take every model*.safetensors.",
            "Move the files of the older save out of the directory.",
        )
    for name, header in weights.headers.items():
        extra = [tensor for tensor in header.tensors if tensor not in weights]
        if extra:
            yield Finding(
                "tensor-unlisted",
                "warning",
                f"{name} holds {len(extra)} tensors that the index does not list, the first is {extra[0]}.",
                "Index and shards come from different saves: save the checkpoint again.",
            )


def _shapes(checkpoint: Checkpoint) -> Iterator[Finding]:
    embedding, config = embedding_of(checkpoint), checkpoint.config
    if embedding is None:
        yield Finding(
            "embedding-missing",
            "warning",
            "No tensor has the name of a token embedding: these may not be the weights of a language model.",
            "Look at the tensor names; some merges save them with a prefix such as base_model.model.",
        )
    elif embedding.shape != (config.vocab_size, config.hidden_size) and not checkpoint.config.quantization:
        yield Finding(
            "shape-mismatch",
            "error",
            f"config.json says vocab_size {config.vocab_size:,} and hidden_size {config.hidden_size:,}, "
            f"but {embedding.name} has the shape {embedding.shape[0]:,} × {embedding.shape[1]:,}.",
            "Take the config.json that was saved with these weights.",
        )


def _layers(checkpoint: Checkpoint) -> Iterator[Finding]:
    present = set()
    for name in checkpoint.weights.names:
        found = _LAYER.search(name)
        if found and not any(word in name for word in _OTHER_STACKS):
            present.add(int(found[1]))
    wanted = min(checkpoint.config.layers, 100_000)
    missing = [number for number in range(wanted) if number not in present] if present else []
    if missing:
        yield Finding(
            "layers-missing",
            "error",
            f"config.json says {checkpoint.config.layers} layers; the weights have no layer {missing[0]}"
            + (f" and {len(missing) - 1} others." if len(missing) > 1 else "."),
            "The save was interrupted, or config.json is another model's: save the checkpoint again.",
        )


def _head(checkpoint: Checkpoint) -> Iterator[Finding]:
    weights, embedding = checkpoint.weights, embedding_of(checkpoint)
    if embedding is None or not checkpoint.config.architecture.endswith("ForCausalLM"):
        return
    heads = (info for info in weights if info.name.endswith(_HEADS))
    head = next((info for info in heads if not _LAYER.search(info.name)), None)
    if head is None and not checkpoint.config.tie_word_embeddings:
        yield Finding(
            "lm-head-missing",
            "error",
            "config.json says tie_word_embeddings false, but there is no lm_head.weight: transformers would "
            "fill it with random numbers.",
            "If the base model ties its embeddings set tie_word_embeddings to true; otherwise merge again.",
        )
    if head is not None and checkpoint.config.tie_word_embeddings:
        same = _same_rows(weights, head, embedding)
        yield Finding(
            "lm-head-extra",
            "info" if same else "warning",
            f"config.json says tie_word_embeddings true, but {head.name} is stored as well"
            + (
                ", equal to the embedding." if same else " and differs from the embedding: engines ignore it."
            ),
            "Nothing to do."
            if same
            else "If the head was trained on its own set tie_word_embeddings to false.",
        )


def _same_rows(weights: Weights, one: TensorInfo, other: TensorInfo) -> bool:
    """Compare 64 rows spread over two matrices."""
    import numpy as np

    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    step = max(1, one.shape[0] // 64) if one.shape else 1
    return np.array_equal(weights.raw(one.name)[::step], weights.raw(other.name)[::step])
