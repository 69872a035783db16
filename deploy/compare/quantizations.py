"""Which quantization is good enough: every type against the checkpoint's own precision, on one text.

Knows the GGUF files that a comparison needs and the processes that compute them. Does not know the terminal.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import errors
from convert.types import normalize_type
from deploy.artifacts import GgufArtifact
from deploy.compare.divergence import Divergence, summarize
from deploy.compare.worker import Job, read_positions
from deploy.cores import compute_threads
from deploy.ladder import engine_died
from deploy.process import EngineProcess
from errors import BadInput, OutputError, PortsideError
from files import cache_dir

if TYPE_CHECKING:
    from chat_templates import Stops, TemplateSource
    from checkpoint import Checkpoint

__all__ = ["DEFAULT_MAX_KL", "DEFAULT_TEXT", "Comparison", "Quantization", "compare_quantizations"]

DEFAULT_TEXT = Path(__file__).with_name("text.txt")
DEFAULT_MAX_KL = 0.05
"""Nats a token, a rule of thumb: there the likeliest token is another one at every seventh position or so."""
WINDOW = 512
"""Tokens that the model sees at a time; the second half is judged, as llama.cpp's perplexity tool does."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, parts done, parts in all)."""


@dataclass(frozen=True)
class Quantization:
    """One type: the size of its file in bytes, and how far it is from the reference."""

    type: str
    bytes: int
    divergence: Divergence


@dataclass(frozen=True)
class Comparison:
    """`reference` comes first in `quantizations` too, with a divergence of 0."""

    model: str
    text: str
    reference: str
    quantizations: tuple[Quantization, ...]
    max_kl: float

    @property
    def choice(self) -> Quantization | None:
        """The smallest file whose mean KL divergence is at most `max_kl`; None when there is none."""
        good = [each for each in self.quantizations[1:] if each.divergence.kl <= self.max_kl]
        return min(good, key=lambda each: each.bytes, default=None)

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "text": self.text,
            "reference": self.reference,
            "tokens": self.quantizations[0].divergence.tokens,
            "max_kl": self.max_kl,
            "choice": self.choice.type if self.choice else None,
            "quantizations": [
                {"type": each.type, "bytes": each.bytes, **asdict(each.divergence)}
                for each in self.quantizations
            ],
        }


def compare_quantizations(
    checkpoint: Checkpoint,
    source: TemplateSource,
    stops: Stops,
    types: Sequence[str],
    *,
    text: Path = DEFAULT_TEXT,
    windows: int = 8,
    max_kl: float = DEFAULT_MAX_KL,
    progress: Progress = lambda what, done, total: None,
) -> Comparison:
    """Measure each of `types` against the precision in which `checkpoint` is stored.

    The GGUF files are those that `serve` would make, and stay in the cache. Raises `BadInput` for a text that
    cannot be read or is too short, `OutputError` when the disk is too small, `EngineMissing`, `EngineFailed`.
    """
    _require_text(text)
    reference = _own_type(checkpoint)
    wanted = [reference, *(kind for kind in map(normalize_type, types) if kind != reference)]
    artifacts = [GgufArtifact(checkpoint, kind, source, stops) for kind in dict.fromkeys(wanted)]
    for artifact in artifacts:
        if not artifact.is_ready():
            artifact.make(functools.partial(progress, f"Converting to {artifact.type}"))
    measured = []
    place = cache_dir() / "compare"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".run.", dir=place) as name:
        directory = Path(name)
        _require_space(directory, checkpoint, windows)
        for artifact in artifacts:
            job = Job(
                model=str(artifact.path),
                text=str(text),
                directory=name,
                result=str(directory / f"{artifact.type}.npz"),
                window=min(WINDOW, checkpoint.config.context_length),
                windows=windows,
                threads=compute_threads(),
            )
            divergence = _measure(job, artifact.type, progress)
            measured.append(Quantization(artifact.type, artifact.path.stat().st_size, divergence))
    return Comparison(checkpoint.name, str(text), reference, tuple(measured), max_kl)


def _measure(job: Job, name: str, progress: Progress) -> Divergence:
    result = Path(job.result)
    path = job.write(result.with_suffix(".json"))
    log = cache_dir() / "logs" / "compare.log"
    argv = [sys.executable, "-P", "-m", "deploy.compare.worker", str(path)]
    with EngineProcess(argv, log=log, cleared=("LLAMA_ARG_*",)) as process:
        while (status := process.poll()) is None:
            _tell(process.tail(1), name, progress)
            time.sleep(0.1)
        _raise_reported(result.with_suffix(".error"))
        if status.code != 0 or not result.exists():
            raise engine_died(process, status, f"{name} was being measured")
    return summarize(read_positions(result))


def _tell(lines: Sequence[str], name: str, progress: Progress) -> None:
    words = lines[0].split() if lines else []
    if len(words) == 4 and words[0] == "window":
        progress(f"Measuring {name}", int(words[1]), int(words[3]))


def _raise_reported(path: Path) -> None:
    """Raise what the worker could not do, if it has said so."""
    if not path.exists():
        return
    problem = json.loads(path.read_text(encoding="utf-8"))
    kind: type[PortsideError] = getattr(errors, problem["kind"], BadInput)
    raise kind(problem["message"], hint=problem["hint"])


def _own_type(checkpoint: Checkpoint) -> str:
    """Return the GGUF type that keeps the checkpoint's weights as they are stored."""
    return {"float32": "f32", "float16": "f16"}.get(checkpoint.config.dtype or "", "bf16")


def _require_text(text: Path) -> None:
    try:
        text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"Cannot read {text}: {error}.", hint="Give a file of UTF-8 text with --text."
        ) from error


def _require_space(directory: Path, checkpoint: Checkpoint, windows: int) -> None:
    size = windows * (WINDOW // 2) * len(checkpoint.tokenizer.tokens) * 4
    free = shutil.disk_usage(directory).free
    if size > free:
        raise OutputError(
            f"The reference's probabilities take up to {size / 1e9:.1f} GB for a while, and the disk of "
            f"{directory.parent} has {free / 1e9:.1f} GB free.",
            hint="Free some space, set PORTSIDE_CACHE, or measure less with --windows.",
        )
