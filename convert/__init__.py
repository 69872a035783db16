"""Checkpoint to GGUF in one pass, straight to any quantized type; the bytes are llama.cpp's.

`plan_conversion` decides everything, `run_conversion` does it; `read_gguf` reads the header of any GGUF file,
`check_gguf` all of it.
"""

from convert.check import GgufCheck, check_gguf
from convert.choices import TypeChoices, read_overrides
from convert.from_gguf import plan_from_gguf
from convert.importance import Importance, read_importance
from convert.lora import plan_lora
from convert.plan import ConversionPlan, FilePlan, plan_conversion
from convert.reader import GgufSummary, GgufTensor, read_gguf
from convert.run import ConvertedFile, run_conversion
from convert.split import SHARD_NAME
from convert.types import TYPES, normalize_type

__all__ = [
    "SHARD_NAME",
    "TYPES",
    "ConversionPlan",
    "ConvertedFile",
    "FilePlan",
    "GgufCheck",
    "GgufSummary",
    "GgufTensor",
    "Importance",
    "TypeChoices",
    "check_gguf",
    "normalize_type",
    "plan_conversion",
    "plan_from_gguf",
    "plan_lora",
    "read_gguf",
    "read_importance",
    "read_overrides",
    "run_conversion",
]
