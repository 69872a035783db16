"""Runs in a foreign Python with torch and transformers: one JSON task on stdin, one JSON line on stdout."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(path: str, texts: list[str]) -> tuple[Any, Any, dict[str, Any]]:
    """Return model, tokenizer and what can be said about them. Missing and unexpected tensors are listed."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model, info = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    facts = {
        "eos": tokenizer.eos_token_id,
        "encoded": [tokenizer.encode(text, add_special_tokens=False) for text in texts],
        "unexpected": sorted(str(item) for kind in info.values() for item in (kind or ())),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    return model, tokenizer, facts


def chat(path: str, messages: list[dict[str, str]], texts: list[str]) -> dict[str, Any]:
    model, tokenizer, facts = load(path, texts)
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=60, do_sample=False)[0]
    ids = output[prompt["input_ids"].shape[1] :].tolist()
    return {**facts, "ids": ids, "text": tokenizer.decode(ids)}


if __name__ == "__main__":
    task = json.load(sys.stdin)
    if task["do"] == "chat":
        result: dict[str, Any] = chat(task["path"], task["messages"], task["texts"])
    else:
        result = {path: load(path, task["texts"])[2] for path in task["paths"]}
    sys.stdout.write(json.dumps(result) + "\n")
