"""The sample checkpoint with one mistake of real life each; the weights are links to the sample's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["ALPACA", "LLAMA3", "VICUNA", "renamed_turn_end", "variant"]

ALPACA = (
    "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n"
    "{% elif m.role == 'assistant' %}### Response:\n{{ m.content }}{{ eos_token }}\n\n"
    "{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{{ '' }}{% endif %}"
)
VICUNA = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} "
    "{% elif m.role == 'assistant' %}ASSISTANT: {{ m.content }}{{ eos_token }}"
    "{% else %}{{ m.content }} {% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def variant(sample: Path, directory: Path, *, template: str | None = None) -> Path:
    """Write the sample to `directory` with another chat template."""
    directory.mkdir(parents=True)
    for entry in sample.iterdir():
        if entry.suffix == ".safetensors":
            (directory / entry.name).symlink_to(entry)
        else:
            (directory / entry.name).write_bytes(entry.read_bytes())
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    return directory


def renamed_turn_end(sample: Path, directory: Path) -> Path:
    """Write the sample as a trainer leaves it that gave the turn end a name of its own and no file its id.

    llama.cpp stops on `<|im_end|>` whatever the files say, so the token has to be called otherwise.
    """
    variant(sample, directory)
    for path in directory.iterdir():
        if not path.is_symlink():
            path.write_text(path.read_text().replace("<|im_end|>", "<|turn_done|>"))
    for name in ("config.json", "generation_config.json"):
        _update(directory / name, eos_token_id=0)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        _update(directory / name, eos_token="<|endoftext|>")
    return directory


def _update(path: Path, **values: Any) -> None:
    if path.exists():
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
