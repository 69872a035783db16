"""Draw `docs/proof.svg`, the README's picture of the proof: what `portside template` prints on a terminal.

The model is the sample, said to be trained with a template that its checkpoint does not carry. With `--check`
nothing is written, and a picture that is out of date is an error.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

import console
from checkpoint.sample import write_sample
from commands.models import template

PICTURE = Path(__file__).with_name("proof.svg")
SOURCE = "llamafactory:qwen"
WIDTH = 118
_WEB_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def drawn(model: Path) -> str:
    """Return the picture for the checkpoint `model`, as SVG that loads nothing."""
    screen = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    usual, console.out = console.out, screen
    try:
        template.main([str(model), "--template", SOURCE], standalone_mode=False)
    finally:
        console.out = usual
    title = f"portside template my-finetune --template {SOURCE}"
    return _WEB_FONTS.sub("", screen.export_svg(title=title, theme=MONOKAI, unique_id="proof"))


def run(check: bool) -> int:
    with tempfile.TemporaryDirectory() as directory:
        picture = drawn(write_sample(Path(directory) / "my-finetune"))
    if check:
        return 0 if PICTURE.read_text(encoding="utf-8") == picture else 1
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run("--check" in sys.argv[1:]))
