"""The sample checkpoint with one mistake of real life each; the weights are links to the sample's."""

from __future__ import annotations

from pathlib import Path

from tests.checkpoints import copy_sample

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
    return copy_sample(sample, directory, chat_template=template)


def renamed_turn_end(sample: Path, directory: Path) -> Path:
    """Write the sample as a trainer leaves it that gave the turn end a name of its own and no file its id.

    llama.cpp stops on `<|im_end|>` whatever the files say, so the token has to be called otherwise.
    """
    return copy_sample(sample, directory, rename={"<|im_end|>": "<|turn_done|>"}, eos="<|endoftext|>")
