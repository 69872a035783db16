"""The model families that become GGUF files, one small module each."""

from __future__ import annotations

from convert.architectures.baichuan import BAICHUAN
from convert.architectures.base import ComputedTensor, Family, TensorRule, sizes
from convert.architectures.cohere import COMMAND_R
from convert.architectures.deepseek import DEEPSEEK
from convert.architectures.deepseek_mla import DEEPSEEK2
from convert.architectures.experts import MIXTRAL, QWEN2_MOE, QWEN3_MOE, experts_of
from convert.architectures.gemma import GEMMA, GEMMA2, GEMMA3
from convert.architectures.glm import CHATGLM, GLM, GLM4
from convert.architectures.internlm import INTERNLM, INTERNLM2
from convert.architectures.llama import LLAMA
from convert.architectures.minicpm import MINICPM, MINICPM3
from convert.architectures.olmo2 import OLMO2
from convert.architectures.phi3 import PHI3
from convert.architectures.qwen2 import QWEN2
from convert.architectures.qwen3 import QWEN3
from convert.architectures.starcoder2 import STARCODER2
from errors import ConversionError

__all__ = ["FAMILIES", "ComputedTensor", "Family", "TensorRule", "experts_of", "family_of", "sizes"]

_FAMILIES = (
    LLAMA,
    QWEN2,
    QWEN3,
    INTERNLM,
    INTERNLM2,
    BAICHUAN,
    MINICPM,
    MINICPM3,
    CHATGLM,
    GLM,
    GLM4,
    GEMMA,
    GEMMA2,
    GEMMA3,
    PHI3,
    COMMAND_R,
    OLMO2,
    STARCODER2,
    MIXTRAL,
    QWEN2_MOE,
    QWEN3_MOE,
    DEEPSEEK,
    DEEPSEEK2,
)

FAMILIES: dict[str, Family] = {
    architecture: family for family in _FAMILIES for architecture in family.architectures
}
"""The name in config.json -> its family."""


def family_of(architecture: str) -> Family:
    """Return the family of `architecture`. Raises `ConversionError` for one that is not supported."""
    try:
        return FAMILIES[architecture]
    except KeyError:
        raise ConversionError(
            f"The architecture {architecture} cannot be converted to GGUF.",
            hint=f"Supported are {', '.join(FAMILIES)}. With --llama-cpp DIR (or LLAMA_CPP_DIR) a llama.cpp "
            "checkout converts many more; vLLM and LMDeploy serve them without conversion.",
        ) from None
