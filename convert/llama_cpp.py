"""The converter of a llama.cpp checkout, run for architectures that are unknown here.

Knows where the checkout keeps its converter and with which Python it runs, what it must not do (run code of a
checkpoint unasked, fetch anything), and that its output is temporary. Does not know the output.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint import Checkpoint
from errors import ConversionError, EngineMissing, Interrupted, OutputError

__all__ = ["Checkout", "converted", "find_checkout"]

PYTHON = "LLAMA_CPP_PYTHON"
_SCRIPT = "convert_hf_to_gguf.py"
_KINDS = {"BF16": "bf16", "F16": "f16"}
"""Dtype of the weights -> the type in which the converter loses nothing; f32 for all others."""
_GRACE = 5.0
"""Seconds from SIGTERM to SIGKILL."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Checkout:
    """A llama.cpp checkout and the Python that runs its converter."""

    directory: Path
    python: str

    def command(self, checkpoint: Checkpoint, target: Path) -> list[str]:
        """Return what is run to convert `checkpoint` to the file `target`."""
        kind = _KINDS.get(checkpoint.weights.dtype or "", "f32")
        script = str(self.directory / _SCRIPT)
        model = str(checkpoint.path.absolute())
        return [self.python, script, model, "--outtype", kind, "--outfile", str(target)]


def find_checkout(directory: Path) -> Checkout:
    """Return the checkout in `directory`; its Python is `$LLAMA_CPP_PYTHON`, or that of its .venv or venv.

    Raises `EngineMissing`.
    """
    directory = Path(directory).absolute()
    if not (directory / _SCRIPT).is_file():
        raise EngineMissing(
            f"{directory} is no llama.cpp checkout: it has no {_SCRIPT}.",
            hint="Name the directory of a git clone of llama.cpp with --llama-cpp or LLAMA_CPP_DIR.",
        )
    named = os.environ.get(PYTHON)
    if named:
        found = shutil.which(named)
    else:
        places = (directory / name / "bin" / "python" for name in (".venv", "venv"))
        found = next((str(place) for place in places if os.access(place, os.X_OK)), None)
    if found is None:
        what = f"{PYTHON} names {named}, which cannot be run." if named else f"{directory} has no .venv."
        raise EngineMissing(
            what,
            hint=f"Make a virtual environment with requirements/requirements-convert_hf_to_gguf.txt of "
            f"llama.cpp, and name its Python with {PYTHON}.",
        )
    return Checkout(directory, found)


@contextlib.contextmanager
def converted(
    checkout: Checkout,
    checkpoint: Checkpoint,
    place: Path,
    *,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Iterator[Path]:
    """Convert `checkpoint` into a temporary file below the directory `place`, gone when the block ends.

    With `trust_code` code that comes with the checkpoint may be run. Raises `ConversionError` for what the
    converter refuses, `EngineMissing` where it lacks a package, `OutputError` for a full disk.
    """
    if not trust_code:
        _refuse_code(checkpoint)
    try:
        place.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=".llama.cpp.", suffix=".part", dir=place))
    except OSError as error:
        raise OutputError(f"Cannot write {place}: {error.strerror}.", hint="Choose another place.") from error
    try:
        with _ended_by_sigterm():
            _check_space(checkpoint, directory)
            target = directory / "converted.gguf"
            _run(checkout, checkpoint, target, directory, progress)
            yield target
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _refuse_code(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint with code, which llama.cpp's converter would have transformers run."""
    scripts = sorted(path.name for path in checkpoint.path.glob("*.py"))
    if scripts or "auto_map" in checkpoint.config.raw or "auto_map" in checkpoint.tokenizer.config:
        what = scripts[0] if scripts else "the auto_map in its configuration"
        raise ConversionError(
            f"{checkpoint.path} comes with code ({what}), which llama.cpp's converter would run.",
            hint="If you trust who made it, say so with --trust-remote-code; else remove the code and "
            "auto_map from a copy.",
        )


def _check_space(checkpoint: Checkpoint, directory: Path) -> None:
    free, needed = shutil.disk_usage(directory).free, checkpoint.weights.bytes
    if needed > free:
        raise OutputError(
            f"llama.cpp's converter writes about {needed:,} bytes in between, but {directory.parent} has "
            f"only {free:,} bytes left.",
            hint="Free some space or choose another place with -o.",
        )


def _run(
    checkout: Checkout, checkpoint: Checkpoint, target: Path, directory: Path, progress: Progress | None
) -> None:
    log = directory / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            checkout.command(checkpoint, target),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=_environment(directory),
            start_new_session=True,
        )
        try:
            total = checkpoint.weights.bytes
            while _still_running(process):
                if progress is not None and target.exists():
                    progress(min(target.stat().st_size, total), total)
        finally:
            _end(process)
    if process.returncode or not target.is_file():
        raise _failure(checkpoint, log.read_text(encoding="utf-8", errors="replace"))


def _environment(directory: Path) -> Mapping[str, str]:
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return {**os.environ, **offline, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(directory)}


def _still_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(0.2)
    except subprocess.TimeoutExpired:
        return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the converter and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
            return


def _failure(checkpoint: Checkpoint, log: str) -> Exception:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "it gave no reason"
    missing = re.search(r"No module named '([\w.]+)'", log)
    if missing:
        return EngineMissing(
            f"llama.cpp's converter needs the package {missing[1]}.",
            hint=f"Install requirements/requirements-convert_hf_to_gguf.txt of llama.cpp for {PYTHON}.",
        )
    if "No space left" in log:
        return OutputError(
            "llama.cpp's converter ran out of space on the disk.", hint="Choose another place with -o."
        )
    if "is not supported" in log:
        last = f"it does not know {checkpoint.config.architecture} either"
    if "pre-tokenizer was not recognized" in log:
        last = "it does not recognise the pre-tokenizer (convert_hf_to_gguf_update.py of llama.cpp adds one)"
    return ConversionError(
        f"llama.cpp's converter cannot convert {checkpoint.path}: {last}.",
        hint="Update the llama.cpp checkout, or serve the checkpoint with vLLM.",
    )


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that what is temporary is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
