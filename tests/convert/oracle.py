"""llama.cpp itself as the judge: its stock converter and its quantizer, each in an environment of its own.

Three variables say where they are; a test that needs one is skipped where it is not set.

    PORTSIDE_TEST_TORCH_PYTHON        a Python with torch, transformers, sentencepiece, pyyaml, tqdm
    PORTSIDE_TEST_LLAMA_CPP_PYTHON    a Python with llama_cpp (llama-cpp-python)
    PORTSIDE_TEST_LLAMA_CPP_SOURCE    the unpacked source distribution of llama-cpp-python
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from convert.types import FILE_TYPES
from tests.convert.forks import run_forked

__all__ = ["llamacpp_source", "quantize", "run_python", "stock_convert", "stock_files"]

_TORCH = "PORTSIDE_TEST_TORCH_PYTHON"
_LLAMA_CPP = "PORTSIDE_TEST_LLAMA_CPP_PYTHON"

# The stock converter knows a pre-tokenizer by the hash of published vocabularies; those made here have none.
_CONVERT = """
import sys
import conversion.base
pre, patch, checkpoint, *jobs = sys.argv[1:]
if pre:
    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
if patch:
    exec(patch, {"checkpoint": checkpoint})
import convert_hf_to_gguf
for job in jobs:
    kind, _, target = job.partition("=")
    sys.argv = ["convert_hf_to_gguf.py", checkpoint, "--outtype", kind, "--outfile", target]
    convert_hf_to_gguf.main()
"""

_QUANTIZE = """
import ctypes, json, sys
import llama_cpp, numpy
source, jobs, wishes = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
overrides = [(pattern.encode(), number) for pattern, number in wishes["overrides"]]
weights = dict(numpy.load(wishes["weights"])) if wishes["weights"] else {}
imatrix = [
    (name.encode(), values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), values.size)
    for name, values in weights.items()
]
for number, target in jobs:
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread, parameters.ftype, parameters.pure = 2, number, wishes["pure"]
    if overrides:
        kind = llama_cpp.llama_model_tensor_override
        parameters.tt_overrides = (kind * (len(overrides) + 1))(*[kind(*item) for item in overrides])
    if imatrix:
        kind = llama_cpp.llama_model_imatrix_data
        parameters.imatrix = (kind * (len(imatrix) + 1))(*[kind(*item) for item in imatrix])
    code = llama_cpp.llama_model_quantize(source.encode(), target.encode(), parameters)
    if code != 0:
        sys.exit(f"llama_model_quantize returned {code} for {target}")
"""


def stock_convert(
    checkpoint: Path, directory: Path, kinds: Sequence[str], pre: str = "", patch: str = ""
) -> dict[str, Path]:
    """Convert with llama.cpp's convert_hf_to_gguf.py to each of f32, f16, bf16, q8_0; return kind -> file.

    `pre` is the name of the pre-tokenizer for a vocabulary whose hash llama.cpp does not know. `patch` is
    Python that runs before it, with `checkpoint` set: facts in place of code that comes with a checkpoint.
    """
    llamacpp_source()
    targets = {kind: directory / f"{kind}.gguf" for kind in kinds}
    jobs = [f"{kind}={path}" for kind, path in targets.items()]
    run_python(_TORCH, _CONVERT, pre, patch, str(checkpoint), *jobs)
    return targets


def stock_files(
    checkpoint: Path, directory: Path, types: Sequence[str], pre: str = "", patch: str = ""
) -> dict[str, Path]:
    """Return type -> file, by the stock converter, or by it and then the quantizer."""
    made = stock_convert(checkpoint, directory, ("f32", "bf16", "q8_0"), pre, patch)
    targets = {kind: directory / f"{kind}.gguf" for kind in types if kind not in made}
    quantize(made["f32"], [(FILE_TYPES[kind].number, path) for kind, path in targets.items()])
    return {**made, **targets}


def quantize(
    source: Path,
    targets: Sequence[tuple[int, Path]],
    *,
    overrides: Sequence[tuple[str, int]] = (),
    pure: bool = False,
    weights: Path | None = None,
) -> None:
    """Quantize the GGUF `source` with `llama_model_quantize` to each (file type number, path).

    `overrides` are (pattern, number of a tensor type); `weights` is an importance matrix as a .npz file of
    float32 vectors by the name of the tensor.
    """
    jobs = json.dumps([[number, str(path)] for number, path in targets])
    wishes = {"overrides": list(overrides), "pure": pure, "weights": str(weights) if weights else None}
    run_python(_LLAMA_CPP, _QUANTIZE, str(source), jobs, json.dumps(wishes))


def llamacpp_source() -> Path:
    """Return the directory of llama.cpp's source."""
    return _named("PORTSIDE_TEST_LLAMA_CPP_SOURCE") / "vendor" / "llama.cpp"


def run_python(variable: str, script: str, *arguments: str) -> None:
    """Run `script` with the Python that `variable` names, and expect it to succeed.

    With torch's Python llama.cpp's converter and its gguf can be imported.
    """
    python = _named(variable)
    paths, modules = [], ["llama_cpp", "numpy"]
    if variable == _TORCH:
        modules = ["torch", "transformers.models.auto.modeling_auto"]
        if os.environ.get("PORTSIDE_TEST_LLAMA_CPP_SOURCE"):
            paths = [str(llamacpp_source()), str(llamacpp_source() / "gguf-py")]
            modules.append("convert_hf_to_gguf")
    with tempfile.NamedTemporaryFile("r", errors="replace") as output:
        code = run_forked(python, paths, modules, script, arguments, Path(output.name))
        assert code == 0, output.read()[-4000:]


def _named(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value or not Path(value).exists():
        pytest.skip(f"{variable} is not set (make test-engines sets it)")
    return Path(value)
