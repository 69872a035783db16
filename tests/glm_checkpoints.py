"""Tiny random checkpoints of GLM and GLM-4 as transformers has them, and GLM-4's own form of tokenizer."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.checkpoints import CHATML, edit_json, write_random_checkpoint, write_random_weights
from tests.other_families import BASE, like_llama

__all__ = ["GLM4_TOKENS", "ranked_bytes", "write_glm"]


def write_glm(directory: Path, architecture: str, **changes: Any) -> Path:
    """Write a checkpoint of GlmForCausalLM or Glm4ForCausalLM, transformers' own classes, with a
    tokenizer.json that splits words as GLM-4's does."""
    write_random_checkpoint(directory, tied=True, chat_template=CHATML)
    config = {
        "architectures": [architecture],
        **BASE,
        "model_type": architecture.removesuffix("ForCausalLM").lower(),
        "head_dim": 64,
        "partial_rotary_factor": 0.5,
        "attention_bias": True,
        "qkv_bias": True,
        "rms_norm_eps": 1.5625e-07,
        "max_position_embeddings": 8192,
        "pad_token_id": 268,
        "eos_token_id": [268, 270],
        "bos_token_id": None,
        **changes,
    }
    config = {key: value for key, value in config.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    edit_json(directory / "generation_config.json", eos_token_id=[268, 270])
    _glm_tokenizer(directory)
    write_random_weights(directory, _shapes(architecture, config))
    return directory


GLM4_TOKENS = ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|user|>", "<|assistant|>")
"""Some of the tokens that GLM-4 adds after its ranks."""


def ranked_bytes(directory: Path, merged: Sequence[bytes]) -> None:
    """Make the tokenizer GLM-4's own: a tokenizer.model of "base64 rank" lines, 256 bytes, then `merged`."""
    tokens = [*(bytes([byte]) for byte in range(256)), *merged]
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    (directory / "tokenizer.model").write_text("".join(lines), encoding="ascii")
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    decoder = {str(len(tokens) + n): {"content": text, **flags} for n, text in enumerate(GLM4_TOKENS)}
    config = {"tokenizer_class": "ChatGLM4Tokenizer", "added_tokens_decoder": decoder}
    named = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "chat_template": CHATML}
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, **named}), encoding="utf-8")


def _glm_tokenizer(directory: Path) -> None:
    path = directory / "tokenizer.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    pattern = {"Regex": rf"{words}|\s*[\r\n]+|\s+(?!\S)|\s+"}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    raw["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    flags = {name: value for name, value in raw["added_tokens"][0].items() if name not in {"id", "content"}}
    texts = ("<|endoftext|>", "[MASK]", "<|user|>", "<|assistant|>")
    raw["added_tokens"] = [
        {"id": 268 + number, "content": text, **flags} for number, text in enumerate(texts)
    ]
    path.write_text(json.dumps(raw, ensure_ascii=False), encoding="utf-8")
    edit_json(
        directory / "tokenizer_config.json",
        bos_token=None,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token=None,
    )


def _shapes(architecture: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    fused = {name.replace("up_proj", "gate_up_proj"): shape for name, shape in like_llama(config).items()}
    shapes = {
        name: (2 * shape[0], shape[1]) if "gate_up_proj" in name else shape
        for name, shape in fused.items()
        if ".gate_proj." not in name
    }
    if architecture == "Glm4ForCausalLM":
        for number in range(config["num_hidden_layers"]):
            for name in ("post_self_attn_layernorm", "post_mlp_layernorm"):
                shapes[f"model.layers.{number}.{name}.weight"] = (config["hidden_size"],)
    return shapes
