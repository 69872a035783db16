"""Checkpoints for tests: tiny random models of several families, and damaged variants of the sample.

`write_random_checkpoint` needs no network; its tokenizer is byte-level BPE with a few merges, made here,
unless another tokenizer.json is given. `copy_sample` shares the sample's weights by links and never changes
them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from checkpoint.safetensors import header_bytes

__all__ = [
    "CHATML",
    "FAMILIES",
    "byte_texts",
    "copy_sample",
    "edit_json",
    "tensor_shapes",
    "tiny_tokenizer",
    "write_random_checkpoint",
    "write_random_weights",
    "write_safetensors",
]

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "LlamaForCausalLM": {"model_type": "llama", "bias": ()},
    "MistralForCausalLM": {"model_type": "mistral", "bias": ()},
    "Qwen2ForCausalLM": {"model_type": "qwen2", "bias": ("q_proj", "k_proj", "v_proj")},
    "Qwen3ForCausalLM": {"model_type": "qwen3", "bias": ()},
}
"""The architectures that can be written; `bias` lists the projections that always have one."""

CHATML = (
    "{%- for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_MERGES = ("h e", "l l", "he ll", "hell o", "Ġ w", "Ġ t", "o r", "Ġt he", "i n", "Ġw or", "a n", "e r")


def write_random_checkpoint(
    directory: Path,
    *,
    architecture: str = "LlamaForCausalLM",
    hidden: int = 256,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    intermediate: int = 512,
    vocab: int | None = None,
    tied: bool = False,
    bias: bool = False,
    dtype: str = "BF16",
    seed: int = 0,
    shards: int = 1,
    tokenizer: Path | None = None,
    chat_template: str | None = CHATML,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint with random weights to `directory` (made if missing) and return it.

    vocab: rows of the embedding; default is the tokenizer's size (tiny: 271), so a larger one is padding.
    tied: no lm_head is stored. bias: q, k, v and o get biases (Llama's attention_bias); Qwen2 always has them
    on q, k, v; Qwen3 has q_norm and k_norm. dtype: BF16, F16 or F32, with `torch_dtype` to match.
    shards: with more than one, an index is written. tokenizer: a tokenizer.json to copy, for instance the
    sample's (its special tokens must include <|im_start|> and <|im_end|>). config: overrides, merged last; a
    None value removes the key.
    The same arguments give the same bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    raw = json.loads(tokenizer.read_text(encoding="utf-8")) if tokenizer else tiny_tokenizer()
    ids = {**raw["model"]["vocab"], **{entry["content"]: entry["id"] for entry in raw["added_tokens"]}}
    rows = vocab if vocab is not None else max(ids.values()) + 1
    values: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": FAMILIES[architecture]["model_type"],
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "vocab_size": rows,
        "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "torch_dtype": {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[dtype],
        "bos_token_id": ids["<|im_start|>"],
        "eos_token_id": ids["<|im_end|>"],
    }
    if architecture == "LlamaForCausalLM":
        values |= {"attention_bias": bias, "mlp_bias": False}
    _write_json(directory / "config.json", _merged(values, config or {}))
    _write_json(directory / "generation_config.json", {"eos_token_id": ids["<|im_end|>"]})
    _write_tokenizer(directory, raw, chat_template)
    shapes = tensor_shapes(
        architecture,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        intermediate=intermediate,
        vocab=rows,
        tied=tied,
        bias=bias,
    )
    write_random_weights(directory, shapes, dtype, np.random.default_rng(seed), shards)
    return directory


def tensor_shapes(
    architecture: str,
    *,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    intermediate: int,
    vocab: int,
    tied: bool,
    bias: bool,
) -> dict[str, tuple[int, ...]]:
    """Return tensor name -> shape of a model, in the order of the model."""
    head = hidden // heads
    rows = {"q_proj": heads * head, "k_proj": kv_heads * head, "v_proj": kv_heads * head, "o_proj": hidden}
    biased = tuple(rows) if bias else FAMILIES[architecture]["bias"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
        for name, count in rows.items():
            columns = heads * head if name == "o_proj" else hidden
            shapes[f"{prefix}.self_attn.{name}.weight"] = (count, columns)
            if name in biased:
                shapes[f"{prefix}.self_attn.{name}.bias"] = (count,)
        if architecture == "Qwen3ForCausalLM":
            shapes[f"{prefix}.self_attn.q_norm.weight"] = (head,)
            shapes[f"{prefix}.self_attn.k_norm.weight"] = (head,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}.mlp.gate_proj.weight"] = (intermediate, hidden)
        shapes[f"{prefix}.mlp.up_proj.weight"] = (intermediate, hidden)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, intermediate)
    shapes["model.norm.weight"] = (hidden,)
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, np.ndarray[Any, Any]]]) -> None:
    """Write `tensors`, name -> (dtype of the format, array with the bits of that dtype), to one file."""
    entries = [(name, dtype, array.shape) for name, (dtype, array) in tensors.items()]
    data = b"".join(np.ascontiguousarray(array).tobytes() for _, array in tensors.values())
    path.write_bytes(header_bytes(entries, {"format": "pt"}) + data)


def tiny_tokenizer() -> dict[str, Any]:
    """Return a tokenizer.json: byte-level BPE with 256 bytes, 12 merges and 3 special tokens (271 in all)."""
    vocab: dict[str, int] = {}
    for text in (*byte_texts(), *(merge.replace(" ", "") for merge in _MERGES)):
        vocab[text] = len(vocab)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": len(vocab) + number, "content": text, **flags} for number, text in enumerate(_SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": list(_MERGES),
        },
    }


def copy_sample(
    sample: Path,
    directory: Path,
    *,
    eos: str | None = None,
    chat_template: str | None = None,
    rename: Mapping[str, str] | None = None,
    without: tuple[str, ...] = (),
    files: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Make a variant of the checkpoint `sample` in `directory`, its weights as symbolic links; return it.

    eos: this token becomes the end of sequence in tokenizer_config, special_tokens_map, generation_config and
    config: `eos="<|endoftext|>"` is "wrong everywhere". chat_template: text of another chat_template.jinja.
    rename: tokens to call otherwise, wherever they stand ({"<|im_end|>": "<|turn_end|>"}: the tokenizer's
    files and the chat template). without: files to leave out. files: JSON file -> keys to merge into it (None
    removes a key; a file that does not exist is made).
    """
    directory.mkdir(parents=True, exist_ok=True)
    for source in sorted(sample.iterdir()):
        if source.name in without:
            continue
        if source.suffix == ".safetensors":
            (directory / source.name).symlink_to(source.resolve())
        else:
            shutil.copy(source, directory / source.name)
    for old, new in (rename or {}).items():
        _rename_token(directory, old, new)
    if eos is not None:
        _set_eos(directory, eos)
    if chat_template is not None:
        (directory / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    for name, changes in (files or {}).items():
        edit_json(directory / name, **changes)
    return directory


def edit_json(path: Path, **changes: Any) -> None:
    """Merge `changes` into the JSON object in `path` (made if missing); a None value removes the key."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    _write_json(path, _merged(old, changes))


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**values, **changes}
    return {key: value for key, value in merged.items() if not (key in changes and value is None)}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def _write_tokenizer(directory: Path, raw: Mapping[str, Any], chat_template: str | None) -> None:
    _write_json(directory / "tokenizer.json", raw)
    tokens = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    tokenizer_config = {**tokens, "clean_up_tokenization_spaces": False}
    _write_json(
        directory / "tokenizer_config.json",
        {**tokenizer_config, "tokenizer_class": "PreTrainedTokenizerFast"},
    )
    if chat_template is not None:
        (directory / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


def write_random_weights(
    directory: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str = "BF16",
    random: np.random.Generator | None = None,
    shards: int = 1,
) -> None:
    """Write tensors of these shapes: random, norms around 1; with more than one shard an index as well."""
    random = np.random.default_rng(0) if random is None else random
    tensors = {name: (dtype, _values(name, shape, dtype, random)) for name, shape in shapes.items()}
    if shards == 1:
        write_safetensors(directory / "model.safetensors", tensors)
        return
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = names[number * len(names) // shards : (number + 1) * len(names) // shards]
        write_safetensors(directory / file, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    total = sum(array.nbytes for _, array in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(directory / "model.safetensors.index.json", index)


def _values(
    name: str, shape: tuple[int, ...], dtype: str, random: np.random.Generator
) -> np.ndarray[Any, Any]:
    values = random.standard_normal(shape, dtype=np.float32) * np.float32(0.05)
    if name.endswith("norm.weight"):
        values += 1
    if dtype == "F32":
        return values
    if dtype == "F16":
        return values.astype(np.float16)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _rename_token(directory: Path, old: str, new: str) -> None:
    for path in directory.iterdir():
        if path.suffix in {".json", ".jinja"} and not path.name.startswith("model"):
            path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def _set_eos(directory: Path, eos: str) -> None:
    raw = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {**raw["model"]["vocab"], **{entry["content"]: entry["id"] for entry in raw["added_tokens"]}}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        edit_json(directory / name, eos_token=eos)
    for name in ("config.json", "generation_config.json"):
        edit_json(directory / name, eos_token_id=ids[eos])


def byte_texts() -> Iterator[str]:
    """Yield the 256 characters that byte-level BPE writes for the bytes 0 to 255."""
    shift = 0
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174:
            yield chr(byte)
        else:
            yield chr(256 + shift)
            shift += 1
