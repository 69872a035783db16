"""One pass to GGUF against llama.cpp's two steps: wall and CPU time, memory, bytes written.

    python bench/convert.py [--hidden 1024 --layers 24 --vocab 151936] [--types bf16,q8_0] [--repeats 3]

The two steps are the stock converter to bf16 and `llama_model_quantize` to the type; to bf16 it is the first
alone. Types that are joined, q8_0+q4_k_m, are made in one call; the reference then converts once and
quantizes to each. Everything runs where the tests' own variables point (PORTSIDE_TEST_TORCH_PYTHON,
PORTSIDE_TEST_LLAMA_CPP_PYTHON, PORTSIDE_TEST_LLAMA_CPP_SOURCE). The checkpoint is random, of Qwen2's shape,
tied, bf16, and is written anew in a temporary directory.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
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
    cpu: float
    """Seconds of all threads together, in the kernel too."""
    memory: int
    """Largest anonymous memory in bytes: mapped weights are the page cache's and do not count."""
    written: int
    """Bytes of the files it made."""

    def __add__(self, other: Cost) -> Cost:
        """Return what one after the other takes."""
        memory = max(self.memory, other.memory)
        written = self.written + other.written
        return Cost(self.seconds + other.seconds, self.cpu + other.cpu, memory, written)


def measure(command: Sequence[str], log: Path, made: Callable[[], Iterable[Path]]) -> Cost:
    """Run `command` to its end; its output goes to `log`, its files are `made`."""
    start, used = time.perf_counter(), _children()
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
    return Cost(seconds, _children() - used, peak[0], sum(path.stat().st_size for path in made()))


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


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


def one_pass(checkpoint: Path, work: Path, kinds: Sequence[str]) -> Cost:
    """Checkpoint to all `kinds` with this project."""
    command = [sys.executable, "-c", _ONE_PASS, str(checkpoint), str(work / "ours"), *kinds]
    return measure(command, work / "log", lambda: (work / "ours").glob("*.gguf"))


def two_steps(checkpoint: Path, work: Path, kinds: Sequence[str]) -> Cost:
    """Checkpoint to bf16 with the stock converter, then to each of `kinds` with llama.cpp's quantizer."""
    source = Path(_named("PORTSIDE_TEST_LLAMA_CPP_SOURCE")) / "vendor" / "llama.cpp"
    middle = work / "bf16.gguf"
    arguments = [str(checkpoint), "--outtype", "bf16", "--outfile", str(middle)]
    python = _named("PORTSIDE_TEST_TORCH_PYTHON")
    cost = measure([python, "-c", _STOCK, str(source), *arguments], work / "log", lambda: [middle])
    for kind in kinds:
        target = _theirs(work, kind)
        if kind == "bf16":
            continue
        quantizer = [_named("PORTSIDE_TEST_LLAMA_CPP_PYTHON"), "-c", _QUANTIZE]
        command = [*quantizer, str(middle), str(target), str(FILE_TYPES[kind].number)]
        cost += measure(command, work / "log", lambda target=target: [target])  # type: ignore[misc]
    if "bf16" in kinds:
        middle.rename(_theirs(work, "bf16"))
    else:
        middle.unlink()
    return cost


def _theirs(work: Path, kind: str) -> Path:
    return work / f"theirs-{kind}.gguf"


def identical_tensors(work: Path, kinds: Sequence[str]) -> str:
    """Compare both sides' tensors by name, type and bytes; return "same/all"; remove the files."""
    pairs = [(next((work / "ours").glob(f"*-{kind.upper()}.gguf")), _theirs(work, kind)) for kind in kinds]
    counts = [_identical(*pair) for pair in pairs]
    for path in (path for pair in pairs for path in pair):
        path.unlink()
    return f"{sum(same for same, _ in counts)}/{sum(whole for _, whole in counts)}"


def _identical(ours: Path, theirs: Path) -> tuple[int, int]:
    mine, reference = ({t.name: t for t in read_gguf(path).tensors} for path in (ours, theirs))
    left, right = np.memmap(ours, np.uint8, "r"), np.memmap(theirs, np.uint8, "r")
    same = sum(
        name in mine
        and mine[name].type == tensor.type
        and np.array_equal(_bytes(left, mine[name]), _bytes(right, tensor))
        for name, tensor in reference.items()
    )
    return same, max(len(mine), len(reference))


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
    jobs = [[normalize_type(kind) for kind in job.split("+")] for job in options.types.split(",")]
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
            "types", "way", "wall s", "CPU s", "peak MB", "written GB", "ratio", "same", title=title
        )
        for kinds in jobs:
            ours, theirs = [], []
            for _ in range(options.repeats):
                ours.append(one_pass(checkpoint, work, kinds))
                theirs.append(two_steps(checkpoint, work, kinds))
                same = identical_tensors(work, kinds)
            ratio = _median(cost.seconds for cost in theirs) / _median(cost.seconds for cost in ours)
            table.add_row(" ".join(kinds), "one pass", *_figures(ours), f"{ratio:.1f}x", same)
            table.add_row("", "reference", *_figures(theirs), end_section=True)
            print(f"{' '.join(kinds)}: {ratio:.1f}x", file=sys.stderr)
        console.print(table)


def _figures(costs: Sequence[Cost]) -> tuple[str, ...]:
    return (
        f"{_median(cost.seconds for cost in costs):.1f}",
        f"{_median(cost.cpu for cost in costs):.1f}",
        f"{_median(cost.memory for cost in costs) / 1e6:.0f}",
        f"{_median(cost.written for cost in costs) / 1e9:.2f}",
    )


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hidden", type=int, default=1024, help="a multiple of 256")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--types", default="bf16,q8_0,q4_k_m", help="q8_0+q4_k_m: both in one call")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dir", default=None, help="where the temporary directory is made")
    return parser.parse_args()


if __name__ == "__main__":
    main()
