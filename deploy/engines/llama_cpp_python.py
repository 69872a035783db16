"""llama-cpp-python's server: a third runtime for a GGUF file, with manners of its own.

Facts of version 0.3.36. It reads its settings from variables too (HOST and PORT even win over the command
line), so those are taken out of the environment, and the key is given in one. Left to itself it computes on
the CPU, keeps 2048 tokens, holds the logits of the whole context (1.6 GB for 8192 tokens of 49,152 words),
cuts a stream short when the next request comes, replaces well-known templates by approximations of its own
and a missing one by Llama 2's. It serves no template but the GGUF file's, any model name, and one request at
a time. Does not know what is in the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploy.engines.environments import Place, find_environment
from errors import EngineMissing

__all__ = ["CLEARED", "INSTALL", "PLACE", "Installation", "arguments", "find_installation", "require"]

INSTALL = "portside engines install llama-cpp-python, or name one with PORTSIDE_LLAMA_CPP_PYTHON"
PLACE = Place("PORTSIDE_LLAMA_CPP_PYTHON", "python3", "llama_cpp_python", standalone=False)
PACKAGE = "llama_cpp_python"
SERVER_PACKAGES = ("uvicorn", "fastapi", "pydantic_settings", "sse_starlette", "starlette_context")

_SETTINGS = (
    *("HOST", "PORT", "CONFIG_FILE", "API_KEY", "MODEL", "MODEL_ALIAS", "ROOT_PATH", "SSL_KEYFILE"),
    *("SSL_CERTFILE", "INTERRUPT_REQUESTS", "DISABLE_PING_EVENTS", "N_*", "SPLIT_MODE", "MAIN_GPU"),
    *("TENSOR_SPLIT", "VOCAB_ONLY", "USE_MMAP", "USE_MLOCK", "KV_OVERRIDES", "RPC_SERVERS", "SEED", "ROPE_*"),
    *("YARN_*", "MUL_MAT_Q", "LOGITS_ALL", "EMBEDDING", "OFFLOAD_KQV", "FLASH_ATTN", "LAST_N_TOKENS_SIZE"),
    *("LORA_BASE", "LORA_PATH", "NUMA", "CHAT_FORMAT", "CHAT_TEMPLATE_KWARGS", "CLIP_MODEL_PATH", "CACHE"),
    *("CACHE_TYPE", "CACHE_SIZE", "HF_TOKENIZER_CONFIG_PATH", "HF_PRETRAINED_MODEL_NAME_OR_PATH"),
    *("HF_MODEL_REPO_ID", "DRAFT_MODEL", "DRAFT_MODEL_NUM_PRED_TOKENS", "TYPE_K", "TYPE_V", "VERBOSE"),
)
CLEARED = (*_SETTINGS, *(name.lower() for name in _SETTINGS), "PYTHONPATH")
"""Its settings are read from the environment whatever their case."""


@dataclass(frozen=True)
class Installation:
    """A llama-cpp-python on this machine. `missing`: packages of its server that are not there."""

    python: Path
    version: str
    missing: tuple[str, ...] = ()


def find_installation() -> tuple[Installation | None, str | None]:
    """Return the llama-cpp-python to use, and in which words the user named it."""
    found, named = find_environment(PLACE, (PACKAGE,))
    if found is None or found.python is None:
        return None, named
    whole, _ = find_environment(PLACE, (PACKAGE, *SERVER_PACKAGES))
    present = whole.versions if whole else {}
    missing = tuple(name.replace("_", "-") for name in SERVER_PACKAGES if name not in present)
    return Installation(found.python, found.versions[PACKAGE], missing), named


def require() -> Installation:
    """Return the llama-cpp-python to use. Raises `EngineMissing` for none and for one without its server."""
    found, named = find_installation()
    if found is None:
        where = f"{named} names none" if named else "no python on PATH has it"
        raise EngineMissing(f"llama-cpp-python is not installed: {where}.", hint=INSTALL)
    if missing := ", ".join(found.missing):
        raise EngineMissing(
            f"The llama-cpp-python of {found.python} lacks its server's packages: {missing}.",
            hint=f"{found.python} -m pip install 'llama-cpp-python[server]'",
        )
    return found


def arguments(served: Path, host: str, port: int, name: str, context: int, threads: int) -> tuple[str, ...]:
    """Return what comes after the python. `context`: tokens, 0 for what the file says."""
    return (
        *("-P", "-m", "llama_cpp.server", "--model", str(served)),
        *("--host", host, "--port", str(port), "--model_alias", name),
        *("--chat_format", "chat_template.default", "--n_ctx", str(context), "--n_gpu_layers", "-1"),
        *("--n_threads", str(threads), "--n_threads_batch", str(threads)),
        *("--logits_all", "false", "--interrupt_requests", "false"),
    )
