"""Checkpoints of an architecture that Portside has no converter for: GPT-2, with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.checkpoints import write_random_weights

__all__ = ["write_gpt2"]


def write_gpt2(directory: Path, tokenizer: Path, *, rows: int, layers: int = 2) -> Path:
    """Write a model with `rows` tokens and the tokenizer of the checkpoint `tokenizer`."""
    directory.mkdir(parents=True)
    for file in tokenizer.iterdir():
        small = file.suffix in {".json", ".jinja"} and "safetensors" not in file.name
        if small and file.name != "config.json":
            shutil.copyfile(file, directory / file.name)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": 256,
        "n_layer": layers,
        "n_head": 4,
        "n_positions": 512,
        "n_ctx": 512,
        "vocab_size": rows,
        "layer_norm_epsilon": 1e-5,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (directory / "config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (rows, 256),
        "transformer.wpe.weight": (512, 256),
        "transformer.ln_f.weight": (256,),
        "transformer.ln_f.bias": (256,),
    }
    matrices = {"attn.c_attn": (256, 768), "attn.c_proj": (256, 256), "mlp.c_fc": (256, 1024)}
    for layer in range(layers):
        prefix = f"transformer.h.{layer}"
        for name, shape in {**matrices, "mlp.c_proj": (1024, 256)}.items():
            shapes[f"{prefix}.{name}.weight"] = shape
            shapes[f"{prefix}.{name}.bias"] = shape[1:]
        for name in ("ln_1", "ln_2"):
            shapes[f"{prefix}.{name}.weight"] = shapes[f"{prefix}.{name}.bias"] = (256,)
    write_random_weights(directory, shapes)
    return directory
