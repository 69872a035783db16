"""The process that computes one model: `python -m deploy.compare.worker JOB.json`.

It runs llama.cpp, which may abort on a damaged file and keeps the weights mapped: both end with it. The job
names the files; the first model of a comparison tokenizes the text and leaves its log probabilities, later
ones are compared with them. Does not know what the figures mean.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from deploy.compare.divergence import Positions, log_probabilities, positions
from deploy.compare.libllama import Model
from errors import BadInput, PortsideError

__all__ = ["FEWEST", "Job", "read_positions"]

FEWEST = 32
"""Tokens that a text must have to be measured."""


@dataclass(frozen=True)
class Job:
    """Paths as text. A window is `window` tokens, of which the second half is judged."""

    model: str
    text: str
    directory: str
    """Where the reference's ids.npy and reference.npy are, or are left by the first job."""
    result: str
    window: int
    windows: int
    """At most."""
    threads: int

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path


def read_positions(path: Path) -> Positions:
    """Return what a job has left in its `result`."""
    with np.load(path) as found:
        return Positions(found["nll"], found["kl"], found["same_top"], found["shift"])


def run(job: Job) -> None:
    """Do the job; a line `window N of M` on stdout after each. Raises `BadInput` for a text too short."""
    place = Path(job.directory)
    with Model(Path(job.model), job.window, job.threads) as model:
        windows = _windows(model, job, place / "ids.npy")
        first = windows.shape[1] // 2
        judged = windows.shape[1] - 1 - first
        shape = (len(windows), judged, model.vocabulary_size)
        path = place / "reference.npy"
        is_reference = not path.exists()
        partial = place / "reference.part.npy"
        reference = (
            np.lib.format.open_memmap(partial, "w+", np.float32, shape)
            if is_reference
            else np.load(path, mmap_mode="r")
        )
        if reference.shape != shape:
            raise BadInput(f"{job.model} has another vocabulary than the reference.")
        found = []
        for number, ids in enumerate(windows):
            probabilities = log_probabilities(model.logits(ids.tolist(), first)[:-1])
            if is_reference:
                reference[number] = probabilities
            found.append(positions(probabilities, reference[number], ids[first + 1 :]))
            sys.stdout.write(f"window {number + 1} of {len(windows)}\n")
            sys.stdout.flush()
    if is_reference:
        partial.rename(path)
    names = ("nll", "kl", "same_top", "shift")
    arrays = {name: np.concatenate([getattr(each, name) for each in found]) for name in names}
    np.savez(job.result, **arrays)  # type: ignore[arg-type]


def _windows(model: Model, job: Job, path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    """Return (windows, window) ids, each window beginning with BOS where the model wants one."""
    if path.exists():
        return np.asarray(np.load(path), np.int32)
    ids = model.tokenize(Path(job.text).read_text(encoding="utf-8"))
    if len(ids) < FEWEST:
        raise BadInput(
            f"The text has {len(ids)} tokens; at least {FEWEST} are needed, a few thousand are better.",
            hint="Give a longer file with --text.",
        )
    window = min(job.window, len(ids))
    count = min(len(ids) // window, job.windows)
    windows = np.array(ids[: count * window], np.int32).reshape(count, window)
    if model.bos is not None:
        windows[:, 0] = model.bos
    np.save(path, windows)
    return windows


def main() -> int:
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    try:
        run(job)
    except PortsideError as error:
        problem = {"message": error.message, "hint": error.hint, "kind": type(error).__name__}
        Path(job.result).with_suffix(".error").write_text(json.dumps(problem), encoding="utf-8")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
