"""The first user's model: trained with a trainer's template, shipped with another one in its checkpoint."""

from __future__ import annotations

from pathlib import Path

from tests.checkpoints import copy_sample
from tests.deploy.pains import ALPACA

__all__ = ["XTUNER", "merged", "training_run"]

XTUNER = "xtuner:qwen_chat"
"""Has no default system message, without which the small sample does not end its answers by itself: what is
written for it is compared, but it is not served."""


def training_run(directory: Path) -> str:
    """Write what a LLaMA-Factory run leaves and return it as a template source: ChatML, and the system
    message that the sample was taught with.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "training_args.yaml").write_text(
        "stage: sft\ntemplate: qwen\ncutoff_len: 2048\n"
        'default_system: "You are a helpful AI assistant named SmolLM, trained by Hugging Face"\n'
    )
    return f"llamafactory:{directory}"


def merged(sample: Path, directory: Path) -> Path:
    """Write the merged checkpoint as the user has it: the base model's template, here Alpaca's."""
    return copy_sample(sample, directory, chat_template=ALPACA)
