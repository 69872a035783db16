"""AWQ: 4-bit weights, made by the user's LMDeploy (`lmdeploy lite auto_awq`), for LMDeploy and vLLM.

LMDeploy calibrates with a data set of a model hub, which it downloads with the package `datasets`. Offline
there are two other ways: a text of the user's own (LMDeploy has no option for one, so its reader of data sets
is replaced, see `awq_calibrated.py`), or no calibration, which loses more. The result is checked, and gets
the checkpoint's own tokenizer, template and generation files: transformers writes some of them differently.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint import Checkpoint
from deploy.causes import classify
from deploy.engines.accelerators import find_accelerators
from deploy.engines.environments import distributions_of
from deploy.engines.lmdeploy import Installation, require_installation
from deploy.process import EngineProcess
from errors import BadInput, EngineFailed, EngineMissing, OutputError, UsageError
from files import cache_dir, replacing_directory

__all__ = ["AwqPlan", "Quantized", "plan_awq", "run_awq"]

CALIBRATED = Path(__file__).with_name("awq_calibrated.py")
CALIBRATION_SAMPLES = 128
DATASET = "wikitext2"

_KEPT = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "generation_config.json"),
)
_ENV = {"PYTHONUNBUFFERED": "1"}
_CLEARED = ("PYTHONPATH", "LMDEPLOY_USE_MODELSCOPE")
_MARKS = ("*.pth", "*.py", "*.pt")
"""Statistics that LMDeploy leaves beside the weights, and code."""


@dataclass(frozen=True)
class AwqPlan:
    """One quantization, decided."""

    checkpoint: Checkpoint
    output: Path
    bits: int
    group_size: int
    samples: int
    data: Path | None
    device: str
    program: tuple[str, ...]
    """What begins the command line."""
    notes: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        return cache_dir() / "logs" / f"quantize-{self.output.name}.log"

    def argv(self, output: Path | None = None) -> tuple[str, ...]:
        """Return the command that writes to `output`."""
        return (
            *self.program,
            *("lite", "auto_awq", str(self.checkpoint.path.absolute())),
            *("--work-dir", str(output or self.output)),
            *("--w-bits", str(self.bits), "--w-group-size", str(self.group_size)),
            *("--calib-samples", str(self.samples), "--calib-dataset", DATASET, "--device", self.device),
            # LMDeploy refuses bfloat16 where there is no CUDA
            *(("--dtype", "float16") if self.device == "cpu" else ()),
        )

    def env(self) -> dict[str, str]:
        offline = {"HF_HUB_OFFLINE": "1"} if self.data or not self.samples else {}
        text = {"PORTSIDE_CALIBRATION_TEXT": str(self.data)} if self.data else {}
        return {**_ENV, **offline, **text}

    def as_json(self) -> dict[str, Any]:
        return {
            "model": str(self.checkpoint.path),
            "output": str(self.output),
            "bits": self.bits,
            "group_size": self.group_size,
            "calibration": {"samples": self.samples, "data": str(self.data) if self.data else None},
            "argv": list(self.argv()),
            "env": self.env(),
            "log": str(self.log),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Quantized:
    """A finished checkpoint. `tensors`: how many matrices are packed."""

    plan: AwqPlan
    bytes: int
    tensors: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        done = {"bytes": self.bytes, "quantized_tensors": self.tensors, "seconds": round(self.seconds, 1)}
        return {**self.plan.as_json(), **done}


def plan_awq(
    model: Path,
    output: Path | None = None,
    *,
    bits: int = 4,
    group_size: int = 128,
    samples: int | None = None,
    data: Path | None = None,
) -> AwqPlan:
    """Decide everything. `samples` None: as many as LMDeploy takes; `data`: a text to calibrate with.

    Raises `CheckpointError`, `BadInput` for a checkpoint that cannot be quantized so, `UsageError`, and
    `EngineMissing` without LMDeploy, or without what its data sets need.
    """
    checkpoint = Checkpoint.open(model)
    config = checkpoint.config
    if config.quantization:
        raise BadInput(
            f"{model} is quantized already ({config.quantization}).", hint="Give what it was made from."
        )
    for name, size in (("hidden_size", config.hidden_size), ("intermediate_size", config.intermediate_size)):
        if size % group_size:
            fits = [n for n in (128, 64, 32) if not (config.hidden_size % n or config.intermediate_size % n)]
            hint = f"--w-group-size {fits[0]} would." if fits else "Serve it unquantized, or as GGUF."
            raise BadInput(f"Groups of {group_size} do not divide {name}, {size}.", hint=hint)
    if data is not None and (samples == 0 or not data.is_file()):
        raise UsageError(
            f"{data} is not a file." if samples != 0 else "No samples of --calib-data are to be taken.",
            hint="--calib-data FILE: a text like those the model answers; --calib-samples: more than 0.",
        )
    samples = CALIBRATION_SAMPLES if samples is None else samples
    installed = require_installation()
    program, notes = _program(installed, samples, data)
    kind = find_accelerators().kind
    device = {"cuda": "cuda", "ascend": "npu", "none": "cpu"}[kind]
    if device == "cpu":
        notes = (*notes, "no GPU: it runs on the CPU, and a large model takes hours")
    data = None if data is None else data.absolute()
    place = (output or Path.cwd() / f"{checkpoint.name}-awq").absolute()
    _require_apart(checkpoint.path, place)
    return AwqPlan(checkpoint, place, bits, group_size, samples, data, device, program, notes)


def _program(
    installed: Installation, samples: int, data: Path | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what is started, and notes about the calibration."""
    if samples == 0:
        return installed.command(), (
            "no calibration (--calib-samples 0): nearest rounding, which loses more",
        )
    if data is not None:
        if installed.python is None:
            raise EngineMissing(
                f"{installed.path} stands alone, and --calib-data needs LMDeploy's python.",
                hint="Name LMDeploy's virtual environment with PORTSIDE_LMDEPLOY.",
            )
        return (str(installed.python), "-P", str(CALIBRATED)), (f"calibrated with {data}",)
    if installed.python and not distributions_of(installed.python.parent.parent, ("datasets",)):
        raise EngineMissing(
            "LMDeploy calibrates with a data set of a model hub, and its environment lacks the package "
            "`datasets`.",
            hint=f"{installed.python} -m pip install datasets; or without the hub: --calib-data FILE.txt "
            "(a text like those the model answers), or --calib-samples 0 (no calibration).",
        )
    return installed.command(), (f"calibrated with {DATASET}, which LMDeploy downloads from a model hub",)


def _require_apart(model: Path, output: Path) -> None:
    if output.resolve() == model.resolve() or model.resolve() in output.resolve().parents:
        raise UsageError(f"{output} is in the checkpoint itself.", hint="Name another place with -o.")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise OutputError(f"{output} exists.", hint="Name another place with -o, or remove it.")


def run_awq(plan: AwqPlan, on_line: Callable[[str], None] = lambda line: None) -> Quantized:
    """Quantize. `on_line` is told the latest words of LMDeploy. Raises `EngineFailed` and `OutputError`."""
    began = time.monotonic()
    with replacing_directory(plan.output) as partial:
        with EngineProcess(
            plan.argv(partial), log=plan.log, env=plan.env(), cleared=_CLEARED, grace=3.0
        ) as process:
            while (status := process.wait(0.3)) is None:
                on_line("".join(process.tail(1)))
            if status.code != 0:
                raise _failed(plan, process, str(status))
        for name in _KEPT:
            (partial / name).unlink(missing_ok=True)
            if (plan.checkpoint.path / name).is_file():
                shutil.copyfile(plan.checkpoint.path / name, partial / name)
        for file in (file for mark in _MARKS for file in partial.glob(mark)):
            file.unlink()
        tensors = _check(plan, partial)
    size = Checkpoint.open(plan.output).weights.bytes
    return Quantized(plan, size, tensors, time.monotonic() - began)


def _check(plan: AwqPlan, directory: Path) -> int:
    """Return the number of packed matrices; raises `EngineFailed` for a result that is not what was asked."""
    made = Checkpoint.open(directory)
    stored = made.config.raw.get("quantization_config")
    wanted = {"quant_method": "awq", "bits": plan.bits, "group_size": plan.group_size}
    if not isinstance(stored, dict) or any(stored.get(key) != value for key, value in wanted.items()):
        raise EngineFailed(
            f"LMDeploy ended well, but config.json says {stored!r} where {wanted} was asked for.",
            hint=f"Its log is {plan.log}.",
        )
    packed = sum(name.endswith(".qweight") for name in made.weights.names)
    if packed < made.config.layers:
        raise EngineFailed(
            f"LMDeploy ended well, but only {packed} matrices of {made.config.layers} layers are packed.",
            hint=f"Its log is {plan.log}.",
        )
    return packed


def _failed(plan: AwqPlan, process: EngineProcess, status: str) -> EngineFailed:
    lines = process.tail(400)
    text = "\n".join(lines)
    cause = classify(process.poll(), lines)
    sentence, hint = cause.sentence, cause.hint
    if "are not supported. The supported model types are" in text:
        sentence = f"LMDeploy cannot quantize {plan.checkpoint.config.architecture}."
        hint = "Serve it unquantized, or as GGUF: portside gguf MODEL --type q4_k_m."
    elif plan.samples and plan.data is None and ("load_dataset" in text or "ConnectionError" in text):
        sentence = f"The calibration data ({DATASET}) could not be fetched from the model hub."
        hint = "Without the hub: --calib-data FILE.txt, or --calib-samples 0 (no calibration)."
    tail = "".join(f"\n    {line[:300]}" for line in lines[-8:])
    return EngineFailed(
        f"lmdeploy lite auto_awq failed ({status}). {sentence} The end of its log ({plan.log}):{tail}",
        hint=hint,
    )
