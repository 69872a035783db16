"""Facts of other people's trainers: the texts they put around messages, as data files.

The TOML files are generated from the trainers' wheels by `refresh`, which reads them and runs nothing; XTuner
v1's, which no wheel carries, is copied from its source. What the facts mean is in `sources.xtuner`,
`sources.xtuner_v1` and `sources.llamafactory`.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["facts"]


@functools.cache
def facts(trainer: str) -> Mapping[str, Any]:
    """Return the parsed data file "xtuner", "xtuner_v1" or "llamafactory". Not to be changed."""
    path = Path(__file__).with_name(f"{trainer}.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))
