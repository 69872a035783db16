"""What a user says about the types of tensors, beside the type of the file: overrides by name, no mixture.

The rules are those of llama-quantize (`parse_tensor_type` in its quantize.cpp, `llama_tensor_get_type`): a
pattern is put into lower case and searched for anywhere in the name, and the first one that is found counts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from checkpoint import Finding
from convert.types import TENSOR_TYPES, TensorType
from errors import UsageError

__all__ = ["MIXTURE", "Override", "TypeChoices", "read_overrides"]

_NOT_ECMASCRIPT = re.compile(r"\(\?(?![:=!])|\[\[[:.=]|\\[az]")
"""What Python and C++ (std::regex, ECMAScript) read differently, and no name of a tensor needs."""


@dataclass(frozen=True)
class Override:
    """The type of every tensor whose name `pattern` is found in."""

    pattern: re.Pattern[str]
    type: TensorType


@dataclass(frozen=True)
class TypeChoices:
    """What is asked for beside the type of the file. It concerns quantized files only."""

    overrides: tuple[Override, ...] = ()
    pure: bool = False
    """Every matrix gets the file's base type: no mixture."""
    weighted: bool = False
    """An importance matrix is used, which changes two mixtures."""

    def override_for(self, name: str) -> TensorType | None:
        """Return the type that the first matching pattern gives to tensor `name`."""
        return next((item.type for item in self.overrides if item.pattern.search(name)), None)

    def unused(self, names: Iterable[str]) -> tuple[Finding, ...]:
        """Say which patterns decide the type of none of the tensors `names`."""
        left = list(self.overrides)
        for name in names:
            first = next((item for item in self.overrides if item.pattern.search(name)), None)
            left = [item for item in left if item is not first]
        return tuple(
            Finding(
                "tensor-type-unused",
                "warning",
                f"--tensor-type {item.pattern.pattern}={item.type.name.lower()} decides no tensor's type.",
                "See the names with --dry-run. The first pattern that is found in a name counts; norms, "
                "vectors and files that are not quantized keep their types.",
            )
            for item in left
        )

    def as_json(self) -> dict[str, Any]:
        chosen = [[item.pattern.pattern, item.type.name.lower()] for item in self.overrides]
        return {"pure": self.pure, "tensor_types": chosen}


MIXTURE = TypeChoices()
"""Nothing is asked for: every file gets its mixture."""


def read_overrides(texts: Sequence[str]) -> tuple[Override, ...]:
    """Read "PATTERN=TYPE" each, such as "attn_v=q8_0". Raises `UsageError`."""
    return tuple(map(_override, texts))


def _override(text: str) -> Override:
    pattern, separator, kind = text.partition("=")
    if not (pattern and separator and kind):
        raise UsageError(f"--tensor-type {text!r} is not PATTERN=TYPE.", hint="For example attn_v=q8_0.")
    pattern = pattern.lower()
    if _NOT_ECMASCRIPT.search(pattern):
        raise UsageError(
            f"The pattern {pattern!r} of --tensor-type means something else in llama.cpp, if anything.",
            hint="Use plain groups, classes such as [0-9], and the anchors ^ and $.",
        )
    try:
        compiled = re.compile(pattern, re.ASCII)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(
            f"The pattern {pattern!r} of --tensor-type is no regular expression: {error}.",
            hint="A dot or a plain part of a name is a pattern too: attn_v=q8_0.",
        ) from error
    return Override(compiled, _tensor_type(kind))


def _tensor_type(text: str) -> TensorType:
    name = text.strip().upper()
    if name in TENSOR_TYPES:
        return TENSOR_TYPES[name]
    near = difflib.get_close_matches(name, TENSOR_TYPES, n=2, cutoff=0.6)
    hint = f"Did you mean {' or '.join(near).lower()}? " if near else ""
    known = ", ".join(TENSOR_TYPES).lower()
    raise UsageError(f"There is no tensor type {text!r}.", hint=f"{hint}Known types of tensors: {known}.")
