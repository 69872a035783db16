"""One pass to GGUF against llama.cpp's two steps: wall time, memory, bytes on disk.

    python bench/convert.py [--hidden 1024 --layers 24 --vocab 151936] [--types q4_k_m,q8_0] [--repeats 3]

The two steps are the stock converter to bf16 and `llama_model_quantize` to the type. They run where the
tests' own variables point (PORTSIDE_TEST_TORCH_PYTHON, PORTSIDE_TEST_LLAMA_CPP_PYTHON,
PORTSIDE_TEST_LLAMA_CPP_SOURCE). The checkpoint is random, of Qwen2's shape, tied, bf16, and is written anew
in a temporary directory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from convert import read_gguf  # noqa: E402
from convert.reader import GgufTensor  # noqa: E402
from convert.types import FILE_TYPES, normalize_type  # noqa: E402
from tests.checkpoints import write_random_checkpoint  # noqa: E402

_ONE_PASS = """
import sys
from pathlib import Path
from checkpoint import Checkpoint
from convert import plan_conversion, run_conversion
checkpoint, target, *types = sys.argv[1:]
run_conversion(plan_conversion(Checkpoint.open(Path(checkpoint)), types, Path(target)))
"""

_STOCK = """
import sys
source, *arguments = sys.argv[1:]
sys.path[:0] = [source, source + "/gguf-py"]
import conversion.base
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
import convert_hf_to_gguf
sys.argv = ["convert_hf_to_gguf.py", *arguments]
convert_hf_to_gguf.main()
"""

_QUANTIZE = """
import sys
import llama_cpp
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype = int(sys.argv[3])
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), parameters))
"""


@dataclass(frozen=True)
class Cost:
    """What one run of a command took."""

    seconds: float
    memory: int
    """Largest anonymous memory in bytes: mapped weights are the page cache's and do not count."""


def measure(command: Sequence[str], log: Path) -> Cost:
    """Run `command` to its end; its output goes to `log`."""
    start = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - start
    watcher.join()
    if code != 0:
        sys.exit(f"{command[0]} failed:\n{log.read_text(errors='replace')[-3000:]}")
    return Cost(seconds, peak[0])


def _watch(process: subprocess.Popen[bytes], peak: list[int]) -> None:
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")]
        peak[0] = max(peak[0], *sizes, 0)
        time.sleep(0.02)


def one_pass(checkpoint: Path, work: Path, kind: str) -> Cost:
    """Checkpoint to `kind` with this project."""
    command = [sys.executable, "-c", _ONE_PASS, str(checkpoint), str(work / "ours"), kind]
    return measure(command, work / "log")


def two_steps(checkpoint: Path, work: Path, kind: str) -> Cost:
    """Checkpoint to bf16 with the stock converter, then to `kind` with llama.cpp's quantizer."""
    source = Path(_named("PORTSIDE_TEST_LLAMA_CPP_SOURCE")) / "vendor" / "llama.cpp"
    middle, target = work / "bf16.gguf", work / "theirs.gguf"
    arguments = [str(checkpoint), "--outtype", "bf16", "--outfile", str(middle)]
    python = _named("PORTSIDE_TEST_TORCH_PYTHON")
    first = measure([python, "-c", _STOCK, str(source), *arguments], work / "log")
    quantizer = [_named("PORTSIDE_TEST_LLAMA_CPP_PYTHON"), "-c", _QUANTIZE]
    number = str(FILE_TYPES[kind].number)
    second = measure([*quantizer, str(middle), str(target), number], work / "log")
    middle.unlink()
    return Cost(first.seconds + second.seconds, max(first.memory, second.memory))


def identical_tensors(work: Path) -> str:
    """Compare the tensors of the two files by name, type and bytes; return "same/all"; remove both files."""
    ours, theirs = next((work / "ours").glob("*.gguf")), work / "theirs.gguf"
    mine, reference = ({t.name: t for t in read_gguf(path).tensors} for path in (ours, theirs))
    left, right = np.memmap(ours, np.uint8, "r"), np.memmap(theirs, np.uint8, "r")
    same = sum(
        name in mine
        and mine[name].type == tensor.type
        and np.array_equal(_bytes(left, mine[name]), _bytes(right, tensor))
        for name, tensor in reference.items()
    )
    ours.unlink()
    theirs.unlink()
    return f"{same}/{max(len(mine), len(reference))}"


def _bytes(data: np.ndarray[Any, Any], tensor: GgufTensor) -> np.ndarray[Any, Any]:
    return data[tensor.offset : tensor.offset + (tensor.bytes or 0)]


def _named(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        sys.exit(f"{variable} is not set; see tests/convert/oracle.py.")
    return value


def main() -> None:
    """Write the checkpoint, measure both ways in turn, print medians."""
    options = _options()
    types = [normalize_type(kind) for kind in options.types.split(",")]
    console = Console()
    with tempfile.TemporaryDirectory(prefix="portside-bench-", dir=options.dir) as name:
        work = Path(name)
        checkpoint = write_random_checkpoint(
            work / "model",
            architecture="Qwen2ForCausalLM",
            hidden=options.hidden,
            layers=options.layers,
            heads=options.hidden // 64,
            kv_heads=2,
            intermediate=options.hidden * 11 // 4 // 256 * 256,
            vocab=options.vocab,
            tied=True,
        )
        size = (checkpoint / "model.safetensors").stat().st_size
        title = f"{size / 2e9:.2f} G parameters, bf16; medians of {options.repeats}"
        table = Table(
            "type",
            "one pass s",
            "two steps s",
            "ratio",
            "one pass MB",
            "two steps MB",
            "identical",
            title=title,
        )
        for kind in types:
            ours, theirs = [], []
            for _ in range(options.repeats):
                ours.append(one_pass(checkpoint, work, kind))
                theirs.append(two_steps(checkpoint, work, kind))
                same = identical_tensors(work)
            table.add_row(kind, *_figures(ours, theirs), same)
        console.print(table)
        console.print(f"The two steps also write a temporary file of {size / 1e9:.2f} GB.")


def _figures(ours: Sequence[Cost], theirs: Sequence[Cost]) -> tuple[str, ...]:
    seconds = [statistics.median(cost.seconds for cost in costs) for costs in (ours, theirs)]
    memory = [statistics.median(cost.memory for cost in costs) / 1e6 for costs in (ours, theirs)]
    ratio = f"{seconds[1] / seconds[0]:.1f}x"
    return f"{seconds[0]:.1f}", f"{seconds[1]:.1f}", ratio, f"{memory[0]:.0f}", f"{memory[1]:.0f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hidden", type=int, default=1024, help="a multiple of 256")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--types", default="q4_k_m,q8_0")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dir", default=None, help="where the temporary directory is made")
    return parser.parse_args()


if __name__ == "__main__":
    main()
