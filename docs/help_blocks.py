"""Keep the `--help` texts, and the example that `portside up` prints, in the documents true.

A document holds a line `<!-- portside VERB --help -->` followed by a fenced block; this script runs the
command and rewrites the block. With `--check` it writes nothing and fails if a block is out of date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from click.testing import CliRunner

from cli import main

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(?P<head><!-- portside (?P<words>[a-z ]*--(?:help|example)) -->\n```[a-z]+\n)"
    r"(?P<body>.*?)(?P<tail>```\n)",
    re.DOTALL,
)


def printed(words: list[str]) -> str:
    """Return what `portside WORDS` prints on a terminal 100 columns wide."""
    return CliRunner().invoke(main, words, prog_name="portside", terminal_width=100).output


def refreshed(text: str) -> str:
    """Return `text` with every help block as the command prints it today."""

    def block(match: re.Match[str]) -> str:
        return match["head"] + printed(match["words"].split()) + match["tail"]

    return BLOCK.sub(block, text)


def run(check: bool) -> int:
    stale = []
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]):
        text = path.read_text(encoding="utf-8")
        new = refreshed(text)
        if new != text:
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{path}: {'out of date; run make format' if check else 'brought up to date'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(run("--check" in sys.argv[1:]))
