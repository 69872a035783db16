"""Why an engine died: its exit status and its last log lines, as one sentence and what to try.

Knows the words that engines use (llama.cpp, vLLM, CUDA, Python, the kernel). The table is data: a new cause
is a new row. Rows are tried in order, the specific before the general. Does not know processes nor files.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.process import ExitStatus

__all__ = ["CAUSES", "Cause", "Diagnosis", "classify"]


@dataclass(frozen=True)
class Cause:
    """One row: patterns (any of them, in one line of the log) and what they mean."""

    name: str
    patterns: tuple[str, ...]
    sentence: str
    hint: str


@dataclass(frozen=True)
class Diagnosis:
    """What a death most likely means. `evidence` is the log line it rests on, None when there was none."""

    cause: str
    sentence: str
    hint: str
    evidence: str | None = None


CAUSES: tuple[Cause, ...] = (
    Cause(
        "port-in-use",
        (
            r"[Aa]ddress already in use",
            r"couldn't bind HTTP server socket",
            r"error while attempting to bind on",
        ),
        "Another process listens on the port.",
        "Choose another with --port, or --port 0 for any free one.",
    ),
    Cause(
        "cannot-run",
        (r"^portside: cannot run ",),
        "The engine's program could not be run.",
        "`portside engines` shows which engines are installed and where.",
    ),
    Cause(
        "bad-flag",
        (
            r"error: unrecognized arguments?",
            r"error: invalid argument",
            r"error: argument .*: (invalid|expected)",
            r"the following arguments are required",
            r"No such option",
        ),
        "The engine does not know one of its arguments, or its value.",
        "Look at what comes after `--`, and at the plan: --dry-run.",
    ),
    Cause(
        "bad-template",
        (
            r"chat template parsing error",
            r"failed to (initialize|parse) chat template",
            r"supplied chat template .*doesn't exist",
            r"TemplateSyntaxError",
        ),
        "The engine cannot read the chat template.",
        "`portside template MODEL` tells where it is wrong; --template names another.",
    ),
    Cause(
        "unknown-architecture",
        (
            r"unknown model architecture",
            r"does not recognize this architecture",
            r"Model architectures .* are not supported",
            r"unknown pre-tokenizer type",
        ),
        "This version of the engine does not know the model's architecture.",
        "Update the engine, or serve the model on another one.",
    ),
    Cause(
        "context-too-long",
        (r"max_model_len \(\d+\) is greater than the derived max_model_len",),
        "The context asked for is longer than the model was made for.",
        "Give a smaller --max-model-len after `--`.",
    ),
    Cause(
        "parallel-size",
        (
            r"must be divisible by tensor parallel size",
            r"World size \(\d+\) is larger than the number of available",
        ),
        "The model cannot be split over that many devices.",
        "--tensor-parallel-size must divide the number of attention heads, and each part wants a device.",
    ),
    Cause(
        "kv-cache",
        (
            r"larger than the available KV cache memory",
            r"No available memory for the cache blocks",
            r"larger than the maximum number of tokens that can be stored in KV cache",
            r"failed to allocate buffer for kv cache",
            r"failed to allocate .*KV cache",
        ),
        "The memory left beside the weights is too small for one conversation of full length.",
        "Give a shorter context (vLLM: --max-model-len, llama.cpp: -c) after `--`, or more memory.",
    ),
    Cause(
        "memory-share",
        (r"is less than desired (CPU|GPU) memory utilization",),
        "The engine wants a larger share of the memory than is free.",
        "Stop what else uses it, or give a smaller --gpu-memory-utilization after `--`.",
    ),
    Cause(
        "gpu-mismatch",
        (
            r"no kernel image is available",
            r"CUDA driver version is insufficient",
            r"forward compatibility was attempted",
            r"driver on your system is too old",
            r"libcud(a|art|nn)\S*\.so\S*: cannot open shared object file",
        ),
        "The GPU or its driver does not fit the engine's build.",
        "Update the driver, or install the engine's build for this GPU and CUDA version.",
    ),
    Cause(
        "no-gpu",
        (
            r"No CUDA GPUs are available",
            r"Found no NVIDIA driver",
            r"Failed to infer device type",
            r"no CUDA-capable device is detected",
            r"Torch not compiled with CUDA enabled",
        ),
        "The engine wants a GPU and finds none.",
        "Use an engine that runs on the CPU: `portside serve llamacpp MODEL`.",
    ),
    Cause(
        "out-of-memory",
        (
            r"CUDA out of memory",
            r"OutOfMemoryError",
            r"\bMemoryError\b",
            r"Cannot allocate memory",
            r"std::bad_alloc",
            r"insufficient memory \(attempted",
            r"unable to fit model into system memory",
            r"failed to allocate \w+ buffer of size",
            r"cudaMalloc failed: out of memory",
            r"[Oo]ut of memory",
        ),
        "The memory is too small for the model.",
        "Take a smaller GGUF type (--type q4_k_m), a shorter context, or a larger machine.",
    ),
    Cause(
        "disk-full",
        (r"No space left on device",),
        "The disk is full.",
        "Free some space; engines also write to /dev/shm and to their caches.",
    ),
    Cause(
        "weights",
        (
            r"data is not within the file bounds",
            r"failed to read (header|key-value pairs|tensor data)",
            r"invalid magic characters",
            r"failed to open GGUF file",
            r"SafetensorError",
            r"HeaderTooLarge",
            r"missing tensor '",
            r"check_tensor_dims|has wrong shape",
        ),
        "The model file is damaged, incomplete or not a model.",
        "`portside inspect MODEL` checks a checkpoint; make the GGUF file again with `portside gguf`.",
    ),
    Cause(
        "missing-package",
        (
            r"ModuleNotFoundError: No module named",
            r"PackageNotFoundError",
            r"ImportError: ",
            r"embedded: .*pip install",
            r"operator torchvision::nms does not exist",
        ),
        "The engine's environment lacks a package, or holds one that does not fit.",
        "Install the engine again in an environment of its own; `portside engines` tells how.",
    ),
    Cause(
        "gpu-error",
        (r"CUDA error", r"HIP error", r"NCCL error"),
        "The GPU reported an error.",
        "Try again; if it comes back, look at the driver's messages (dmesg).",
    ),
)
"""All causes, the specific ones first. Source: the engines' own messages, most produced on purpose."""

_KILLED = Diagnosis(
    "killed",
    "It was killed from outside, most likely by the kernel because the memory was full.",
    "Take a smaller GGUF type (--type q4_k_m), a shorter context, or a larger machine; `dmesg` tells more.",
)
_CRASHED = Diagnosis(
    "crashed",
    "It crashed.",
    "An engine built for another kind of CPU does that, and a damaged model file; the log may tell more.",
)
_UNKNOWN = Diagnosis(
    "unknown", "Its log does not say why in words Portside knows.", "Read the end of the log."
)

_COMPILED = tuple((cause, tuple(re.compile(p) for p in cause.patterns)) for cause in CAUSES)
_CRASH_SIGNALS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGABRT, signal.SIGFPE}


def classify(status: ExitStatus | None, lines: Sequence[str]) -> Diagnosis:
    """Return the most likely cause of a death. `lines`: the last few hundred lines of the log."""
    for cause, patterns in _COMPILED:
        for line in lines:
            if any(pattern.search(line) for pattern in patterns):
                return Diagnosis(cause.name, cause.sentence, cause.hint, line.strip()[:300])
    if status is not None and status.signal == signal.SIGKILL:
        return _KILLED
    if status is not None and status.signal in _CRASH_SIGNALS:
        return _CRASHED
    return _UNKNOWN
