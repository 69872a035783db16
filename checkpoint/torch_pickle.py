"""The pickle of a torch state dict, read by a machine that can build tensors' descriptions and nothing else.

A pickle is a program for a stack machine, and the real one can call any function. This one knows the opcodes
that `torch.save` writes (protocol 2, pickletools names them), nine storage classes, two ways to rebuild a
tensor and OrderedDict; whatever else a file asks for is refused by name. It never recurses, never calls
anything, and its memory is bounded by the size of the program.

Does not know the file around the pickle (`torch_bin`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Forbidden", "Storage", "StoredTensor", "read_state_dict"]


class Forbidden(ValueError):
    """The pickle is damaged, or asks for what no state dict needs; the message completes "its pickle …"."""


@dataclass(frozen=True)
class Storage:
    """A run of elements in the file; `dtype` None where the tensors that use it say theirs."""

    dtype: str | None
    key: str
    elements: int
    """Of bytes, where `dtype` is None."""


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage: offset and strides in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    """A name that the pickle imports."""

    name: str


_STORAGES: dict[str, str | None] = {
    "torch FloatStorage": "F32",
    "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16",
    "torch DoubleStorage": "F64",
    "torch LongStorage": "I64",
    "torch IntStorage": "I32",
    "torch ShortStorage": "I16",
    "torch CharStorage": "I8",
    "torch ByteStorage": "U8",
    "torch BoolStorage": "BOOL",
    "torch.storage UntypedStorage": None,
}
_DTYPES = {
    "torch float32": "F32",
    "torch float16": "F16",
    "torch bfloat16": "BF16",
    "torch float64": "F64",
    "torch int64": "I64",
    "torch int32": "I32",
    "torch int16": "I16",
    "torch int8": "I8",
    "torch uint8": "U8",
    "torch uint16": "U16",
    "torch uint32": "U32",
    "torch uint64": "U64",
    "torch bool": "BOOL",
    "torch float8_e4m3fn": "F8_E4M3",
    "torch float8_e5m2": "F8_E5M2",
}
_DICT = "collections OrderedDict"
_TENSOR, _TENSOR_3 = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"
_PARAMETER = "torch._utils _rebuild_parameter"
_KNOWN = {*_STORAGES, *_DTYPES, _DICT, _TENSOR, _TENSOR_3, _PARAMETER}

_MARK = object()
_LARGEST = 1 << 62


def read_state_dict(program: bytes) -> dict[str, StoredTensor]:
    """Return the tensors of the dict that `program` describes, by name; other entries must be plain values.

    Raises `Forbidden`.
    """
    try:
        found = _Machine(program).run()
    except Forbidden:
        raise
    except (ValueError, IndexError, KeyError, struct.error, TypeError, OverflowError) as error:
        raise Forbidden(f"is damaged ({type(error).__name__})") from error
    if not isinstance(found, dict):
        raise Forbidden("holds no dict of tensors")
    tensors = {}
    for name, value in found.items():
        if isinstance(value, StoredTensor):
            if not isinstance(name, str) or not name or len(name) > 1000 or not name.isprintable():
                raise Forbidden(f"names a tensor {str(name)[:60]!r}")
            tensors[name] = value
    if not tensors:
        raise Forbidden("holds no tensor")
    return tensors


class _Machine:
    """Runs one program."""

    def __init__(self, program: bytes) -> None:
        self._program = program
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            opcode = self._take(1)[0]
            if opcode == ord("."):
                return self._stack.pop()
            step = _STEPS.get(opcode)
            if step is None:
                raise Forbidden(f"has the opcode {bytes([opcode])!r}, which no state dict needs")
            step(self)

    def _take(self, count: int) -> bytes:
        piece = self._program[self._at : self._at + count]
        if len(piece) != count:
            raise Forbidden("ends too early")
        self._at += count
        return piece

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> str:
        end = self._program.index(b"\n", self._at, self._at + 300)
        line = self._program[self._at : end].decode("ascii")
        self._at = end + 1
        return line

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise Forbidden("is damaged (a mark in the wrong place)")
        return value

    def _above_mark(self) -> list[Any]:
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def protocol(self) -> None:
        if self._take(1)[0] > 5:
            raise Forbidden("has an unknown protocol")

    def text(self) -> None:
        self._push(self._take(self._number("<I")).decode("utf-8", "surrogatepass"))

    def global_name(self) -> None:
        name = f"{self._line()} {self._line()}"
        if name not in _KNOWN:
            raise Forbidden(f"asks for {name.replace(' ', '.')!r}, which no state dict needs")
        self._push(_Global(name))

    def long(self) -> None:
        self._push(int.from_bytes(self._take(self._take(1)[0]), "little", signed=True))

    def tuple_of(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._push(tuple(values[::-1]))

    def set_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise Forbidden("sets items of what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) not in (str, int):
                raise Forbidden(f"has a {type(key).__name__} for a key")
            target[key] = value

    def append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise Forbidden("appends to what is no list")
        target += values

    def build(self) -> None:
        """A state dict of a module carries `_metadata`, which says nothing about the tensors."""
        state, target = self._pop(), self._stack[-1]
        if not isinstance(target, dict) or not isinstance(state, dict) or set(state) - {"_metadata"}:
            raise Forbidden("gives an object a state of its own")

    def storage(self) -> None:
        parts = self._pop()
        if not isinstance(parts, tuple) or len(parts) != 5 or parts[0] != "storage":
            raise Forbidden("refers to something outside that is no storage")
        kind, key, elements = parts[1], parts[2], parts[4]
        if not isinstance(kind, _Global) or kind.name not in _STORAGES:
            raise Forbidden("has a storage of an unknown class")
        if not isinstance(key, str) or not key.isalnum() or not _natural(elements):
            raise Forbidden("has a storage without a proper name or size")
        self._push(Storage(_STORAGES[kind.name], key, elements))

    def reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise Forbidden("calls what is no function")
        if function.name == _DICT and not arguments:
            self._push({})
        elif function.name == _PARAMETER and arguments and isinstance(arguments[0], StoredTensor):
            self._push(arguments[0])
        elif function.name in (_TENSOR, _TENSOR_3):
            self._push(_tensor(arguments, versioned=function.name == _TENSOR_3))
        else:
            raise Forbidden(f"calls {function.name.replace(' ', '.')!r} in an unknown way")


def _tensor(arguments: tuple[Any, ...], *, versioned: bool) -> StoredTensor:
    if len(arguments) < (7 if versioned else 4):
        raise Forbidden("rebuilds a tensor from too little")
    storage, offset, shape, strides = arguments[:4]
    sizes = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= 64
    if not isinstance(storage, Storage) or not sizes or not all(map(_natural, (offset, *shape, *strides))):
        raise Forbidden("rebuilds a tensor that has no proper storage, shape or strides")
    dtype = storage.dtype
    if versioned:
        named = arguments[6]
        dtype = _DTYPES.get(named.name) if isinstance(named, _Global) else None
    if dtype is None:
        raise Forbidden("rebuilds a tensor of an unknown dtype")
    return StoredTensor(storage, dtype, offset, shape, strides)


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


_STEPS: dict[int, Callable[[_Machine], None]] = {
    ord(opcode): step
    for opcode, step in {
        "\x80": _Machine.protocol,
        "}": lambda m: m._push({}),
        "]": lambda m: m._push([]),
        ")": lambda m: m._push(()),
        "N": lambda m: m._push(None),
        "\x88": lambda m: m._push(True),
        "\x89": lambda m: m._push(False),
        "(": lambda m: m._push(_MARK),
        "X": _Machine.text,
        "J": lambda m: m._push(m._number("<i")),
        "K": lambda m: m._push(m._number("<B")),
        "M": lambda m: m._push(m._number("<H")),
        "\x8a": _Machine.long,
        "G": lambda m: m._push(m._number(">d")),
        "c": _Machine.global_name,
        "q": lambda m: m._memo.__setitem__(m._number("<B"), m._stack[-1]),
        "r": lambda m: m._memo.__setitem__(m._number("<I"), m._stack[-1]),
        "h": lambda m: m._push(m._memo[m._number("<B")]),
        "j": lambda m: m._push(m._memo[m._number("<I")]),
        "t": lambda m: m._push(tuple(m._above_mark())),
        "\x85": lambda m: m.tuple_of(1),
        "\x86": lambda m: m.tuple_of(2),
        "\x87": lambda m: m.tuple_of(3),
        "s": lambda m: m.set_items([m._pop(), m._pop()][::-1]),
        "u": lambda m: m.set_items(m._above_mark()),
        "a": lambda m: m.append([m._pop()]),
        "e": lambda m: m.append(m._above_mark()),
        "b": _Machine.build,
        "Q": _Machine.storage,
        "R": _Machine.reduce,
    }.items()
}
