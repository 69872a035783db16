"""LMDeploy's command line, with a text of the user's own as calibration data.

Run by path in LMDeploy's environment (`python -P awq_calibrated.py lite auto_awq …`): nothing of Portside has
to be importable. PORTSIDE_CALIBRATION_TEXT names the text (UTF-8). Fact of LMDeploy 0.18: `calibrate` asks
`get_calib_loaders` for a list of token ids of shape (1, seqlen).
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

__all__ = ["loaders", "main"]


def loaders(text: str, tokenizer: Any, samples: int, length: int, seed: int = 0) -> list[Any]:
    """Return up to `samples` pieces of `length` tokens (of a short text: fewer, or shorter ones)."""
    ids = tokenizer(text, return_tensors="pt").input_ids
    length = min(length, ids.shape[1])
    starts = list(range(0, ids.shape[1] - length + 1, length))
    chosen = random.Random(seed).sample(starts, min(samples, len(starts)))
    return [ids[:, start : start + length] for start in sorted(chosen)]


def main() -> None:
    """Run LMDeploy's command line."""
    text = Path(os.environ["PORTSIDE_CALIBRATION_TEXT"]).read_text(encoding="utf-8")
    import lmdeploy.lite.apis.calibrate as calibration
    from lmdeploy.cli.entrypoint import run

    def from_text(name: str, tokenizer: Any, nsamples: int = 128, seed: int = 0, seqlen: int = 2048) -> Any:
        return loaders(text, tokenizer, nsamples, seqlen, seed)

    calibration.get_calib_loaders = from_text
    sys.argv[0] = "lmdeploy"
    run()


if __name__ == "__main__":
    main()
