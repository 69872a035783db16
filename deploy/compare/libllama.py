"""llama.cpp's C interface, for what its server does not give: the logits after every token of a text.

The xllamacpp wheel exports libllama from its extension module. Parameters are passed as oversized blocks of
which only the first fields are known, so that a llama.cpp with more fields still finds its own; whether the
known ones are where they should be is checked before use and again through the library's own getters.

It aborts the process on some damaged files: use it in a process of its own. Does not know what the logits are
for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from errors import ConversionError, EngineMissing

__all__ = ["Model"]

_WORDS = 512
"""Size of a block of parameters in 32-bit words, several times what any version has had."""
_CONTEXT_DEFAULTS = [512, 2048, 512, 1]
"""n_ctx, n_batch, n_ubatch, n_seq_max: the first fields of llama_context_params and their defaults."""


class _Parameters(ctypes.Structure):
    _fields_ = (("words", ctypes.c_uint32 * _WORDS),)


class _Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_POINTER, _INT, _TEXT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [_POINTER, _POINTER]),
    "llama_model_default_params": (_Parameters, []),
    "llama_context_default_params": (_Parameters, []),
    "llama_model_load_from_file": (_POINTER, [_TEXT, _Parameters]),
    "llama_init_from_model": (_POINTER, [_POINTER, _Parameters]),
    "llama_set_n_threads": (None, [_POINTER, _INT, _INT]),
    "llama_n_ctx": (ctypes.c_uint32, [_POINTER]),
    "llama_n_batch": (ctypes.c_uint32, [_POINTER]),
    "llama_model_get_vocab": (_POINTER, [_POINTER]),
    "llama_vocab_n_tokens": (_INT, [_POINTER]),
    "llama_vocab_bos": (_INT, [_POINTER]),
    "llama_vocab_get_add_bos": (ctypes.c_bool, [_POINTER]),
    "llama_tokenize": (_INT, [_POINTER, _TEXT, _INT, _POINTER, _INT, ctypes.c_bool, ctypes.c_bool]),
    "llama_batch_init": (_Batch, [_INT, _INT, _INT]),
    "llama_get_memory": (_POINTER, [_POINTER]),
    "llama_memory_clear": (None, [_POINTER, ctypes.c_bool]),
    "llama_decode": (_INT, [_POINTER, _Batch]),
    "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), [_POINTER, _INT]),
    "llama_free": (None, [_POINTER]),
    "llama_model_free": (None, [_POINTER]),
}


class Model:
    """A GGUF file, ready for windows of `window` tokens. Raises `EngineMissing`, `ConversionError`."""

    def __init__(self, path: Path, window: int, threads: int) -> None:
        self._lib = lib = _library()
        self.window = window
        lib.llama_backend_init()
        self._model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        if not self._model:
            raise ConversionError(f"llama.cpp cannot load {path}.", hint="`portside gguf --check` says more.")
        self._context = lib.llama_init_from_model(self._model, _context_parameters(lib, window))
        if not self._context or lib.llama_n_ctx(self._context) < window:
            raise _other_llama_cpp()
        lib.llama_set_n_threads(self._context, threads, threads)
        self._vocabulary = lib.llama_model_get_vocab(self._model)
        self.vocabulary_size: int = lib.llama_vocab_n_tokens(self._vocabulary)
        self._batch = lib.llama_batch_init(window, 0, 1)

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)

    @property
    def bos(self) -> int | None:
        """The id that begins every text, None where the model was trained without one."""
        wanted = self._lib.llama_vocab_get_add_bos(self._vocabulary)
        return int(self._lib.llama_vocab_bos(self._vocabulary)) if wanted else None

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of plain text: nothing in it is a special token, no BOS is added."""
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 8))()
        count = self._lib.llama_tokenize(self._vocabulary, data, len(data), ids, len(ids), False, False)
        return list(ids[:count])

    def logits(self, ids: Sequence[int], first: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return (len(ids) - first, vocabulary) logits: those after each of the tokens from `first` on."""
        lib, batch = self._lib, self._batch
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index] = token
            batch.pos[index] = index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = index >= first
        status = lib.llama_decode(self._context, batch)
        if status != 0:
            raise ConversionError(f"llama.cpp cannot compute {len(ids)} tokens (llama_decode: {status}).")
        found = np.empty((len(ids) - first, self.vocabulary_size), np.float32)
        for row in range(len(found)):
            pointer = lib.llama_get_logits_ith(self._context, first + row)
            if not pointer:
                raise _other_llama_cpp()
            found[row] = np.ctypeslib.as_array(pointer, shape=(self.vocabulary_size,))
        return found


def _library() -> Any:
    try:
        from xllamacpp import xllamacpp
    except ImportError as error:
        raise EngineMissing(
            "The embedded llama.cpp is not installed.", hint="pip install xllamacpp"
        ) from error
    lib = ctypes.CDLL(str(xllamacpp.__file__))
    for name, (result, arguments) in _FUNCTIONS.items():
        try:
            function = getattr(lib, name)
        except AttributeError as error:
            raise _other_llama_cpp() from error
        function.restype, function.argtypes = result, arguments
    return lib


def _context_parameters(lib: Any, window: int) -> _Parameters:
    parameters: _Parameters = lib.llama_context_default_params()
    if list(parameters.words[:4]) != _CONTEXT_DEFAULTS:
        raise _other_llama_cpp()
    parameters.words[0] = parameters.words[1] = window
    parameters.words[2] = min(window, 512)
    return parameters


def _other_llama_cpp() -> EngineMissing:
    return EngineMissing(
        "The llama.cpp in the installed xllamacpp has another interface than the one that is known.",
        hint="pip install 'xllamacpp==2026.10.11549'",
    )
