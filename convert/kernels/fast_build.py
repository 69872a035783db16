"""Machine code for this machine's processor, made by LLVM (the `llvmlite` package) and kept on disk.

A kernel is compiled once for a processor, in about a tenth of a second; later runs load the object file from
the cache directory. LLVM splits vectors that are wider than the processor's, so the same kernel runs, with
the same results, on any instruction set.

Does not know: what a kernel computes. Imports llvmlite only when a kernel is wanted.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from errors import EngineMissing, OutputError
from files import cache_dir, replacing

__all__ = ["Compiler", "Function", "load_compiler"]

Function = Callable[[int, int, int, int], None]
"""Called with three addresses and a count, without Python's lock."""

_PROTOTYPE = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)
_DIGEST = 32


class Compiler:
    """LLVM for the processor that this process runs on, or for the lesser one named (as "x86-64-v3")."""

    def __init__(self, llvm: Any, processor: str | None = None) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self._llvm = llvm
        self._lock = threading.Lock()
        self._engines: list[Any] = []
        self._processor, features = (processor, None) if processor else _processor(llvm)
        self._features: str = features.flatten() if features else ""
        self.wide = bool(features and features.get("avx512f"))
        """Whether a register holds sixteen floats."""

    def function(self, name: str, text: str) -> Function:
        """Return the function `name` of LLVM assembly `text`. It lives as long as the process."""
        with self._lock:
            engine = self._llvm.create_mcjit_compiler(self._llvm.parse_assembly(""), self._machine())
            engine.add_object_file(self._llvm.ObjectFileRef.from_data(self._object(name, text)))
            engine.finalize_object()
            self._engines.append(engine)
            function: Function = _PROTOTYPE(engine.get_function_address(name))
            return function

    def _machine(self) -> Any:
        target = self._llvm.Target.from_default_triple()
        return target.create_target_machine(
            cpu=self._processor, features=self._features, opt=3, reloc="pic", codemodel="jitdefault"
        )

    def _object(self, name: str, text: str) -> bytes:
        """The object file: from the cache, or compiled and put there."""
        versions = ".".join(map(str, self._llvm.llvm_version_info))
        identity = "\n".join((versions, self._processor, self._features, text))
        key = hashlib.sha256(identity.encode()).hexdigest()[:16]
        path = cache_dir() / "kernels" / f"{name}-{key}.o"
        cached = _read(path)
        if cached is not None:
            return cached
        module = self._llvm.parse_assembly(text)
        module.verify()
        made: bytes = self._machine().emit_object(module)
        # A cache that cannot be written costs a tenth of a second in every run, no more.
        with contextlib.suppress(OutputError), replacing(path) as stream:
            stream.write(hashlib.sha256(made).digest() + made)
        return made


@lru_cache(maxsize=1)
def load_compiler() -> Compiler:
    """Load llvmlite. Raises `EngineMissing` where it is not installed or cannot serve this processor."""
    try:
        import llvmlite.binding as llvm
    except ImportError as error:
        raise EngineMissing(
            "The fast quantization kernels need the package llvmlite, which is not installed.",
            hint="Install it with `pip install 'portside[fast]'`, or use --kernels ggml.",
        ) from error
    try:
        return Compiler(llvm)
    except (AttributeError, OSError, RuntimeError) as error:
        raise EngineMissing(
            f"The installed llvmlite cannot make quantization kernels for this processor: {error}.",
            hint="Install another version, or use --kernels ggml.",
        ) from error


def _processor(llvm: Any) -> tuple[str, Any]:
    """The processor's name and features; the baseline where they cannot be told."""
    try:
        return llvm.get_host_cpu_name(), llvm.get_host_cpu_features()
    except RuntimeError:
        return "", None


def _read(path: Path) -> bytes | None:
    """Return a cached object file, unless it is not there or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    made = data[_DIGEST:]
    return made if hashlib.sha256(made).digest() == data[:_DIGEST] else None
