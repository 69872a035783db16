"""A finished GGUF file read again: is it whole, and does it say what it should?

Knows the order of the checks, the digest in the manifest.json beside a file, a checkpoint's chat template
and stop ids. What a header must say is check_header.py's business, the weights are check_data.py's. The
vocabulary is counted rather than parsed, so that the time goes into reading the weights. Repairs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoint.gguf import GgufSummary, read_header
from convert.check_data import Progress, check_data
from convert.check_header import layout, metadata, shard_mismatches, shards_of
from convert.stops import llamacpp_stops_on
from convert.types import TensorType
from errors import BadInput, ConversionError

if TYPE_CHECKING:
    from chat_templates import Stops, TemplateSource

__all__ = ["Check", "GgufCheck", "check_gguf"]

MANIFEST = "manifest.json"
_TOKENS = "tokenizer.ggml.tokens"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: `ok` is None where there was nothing to compare with."""

    name: str
    ok: bool | None
    detail: str
    problems: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "ok": self.ok, "detail": self.detail, "problems": list(self.problems)}


@dataclass(frozen=True)
class GgufCheck:
    """What came out, for all the shards of a file together."""

    files: tuple[Path, ...]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok is not False for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "files": [str(path) for path in self.files],
            "checks": [check.as_json() for check in self.checks],
        }


def check_gguf(
    path: Path,
    *,
    template: TemplateSource | None = None,
    stops: Stops | None = None,
    progress: Progress | None = None,
) -> GgufCheck:
    """Check the GGUF file `path`, with all its shards if it is one of several.

    `template` and `stops` are those the file should carry. Raises `BadInput` where there is no such file;
    whatever is wrong with one that is there is a failed check.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"There is no file {path}.", hint="Name a GGUF file, or the first of its shards.")
    files = shards_of(path)
    present = [file for file in files if file.is_file()]
    summaries, broken = _headers(present, (_TOKENS,) if stops is not None else ())
    tensors = sum(len(summary.tensors) for summary in summaries)
    checks = [_check("structure", broken, f"a whole header, {tensors:,} tensors")]
    if summaries:
        size = sum(summary.size for summary in summaries)
        misplaced = [problem for summary in summaries for problem in layout(summary, _types())]
        checks.append(_check("layout", misplaced, f"{size:,} bytes, every tensor where it belongs"))
        checks.append(_check("metadata", metadata(summaries), f"a {summaries[0].architecture}"))
    checks.append(_shards_check(files, present, summaries))
    wanted, unreadable = _listed(present)
    data = check_data(present, summaries, _types(), hashed=wanted, progress=progress)
    if summaries:
        checks.append(_check("values", data.problems, data.detail))
    else:
        checks.append(Check("values", None, "no header tells where they lie"))
    checks.append(_digest_check(wanted, unreadable, data.digests))
    checks += [_template_check(summaries, template), _stops_check(summaries, stops)]
    return GgufCheck(tuple(files), tuple(checks))


def _check(name: str, problems: Sequence[str], fine: str) -> Check:
    return Check(name, not problems, problems[0] if problems else fine, tuple(problems))


def _headers(files: Sequence[Path], arrays: Sequence[str]) -> tuple[list[GgufSummary], list[str]]:
    summaries, broken = [], []
    for file in files:
        try:
            summaries.append(read_header(file, arrays, _types()))
        except ConversionError as error:
            broken.append(error.message)
    return summaries, broken


@lru_cache(maxsize=1)
def _types() -> Mapping[int, TensorType]:
    """Every type that ggml has, by its number: a file of any origin may be checked."""
    import gguf

    sizes = gguf.GGML_QUANT_SIZES
    return {int(kind): TensorType(kind.name, int(kind), *size) for kind, size in sizes.items()}


def _shards_check(files: Sequence[Path], present: Sequence[Path], summaries: Sequence[GgufSummary]) -> Check:
    problems = shard_mismatches(files, present, summaries)
    if problems or len(files) > 1:
        return _check("shards", problems, f"all {len(files)} belong together")
    return Check("shards", None, "one file")


def _listed(files: Sequence[Path]) -> tuple[dict[Path, str], str | None]:
    """Return the digests that manifest.json lists of the files, and what is wrong with it."""
    manifest = files[0].parent / MANIFEST
    if not manifest.is_file():
        return {}, None
    try:
        entries = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        digests = {str(entry["name"]): str(entry["sha256"]) for entry in entries}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}, f"{manifest} cannot be read as the manifest of a bundle."
    return {file: digests[file.name] for file in files if file.name in digests}, None


def _digest_check(wanted: Mapping[Path, str], unreadable: str | None, found: Mapping[Path, str]) -> Check:
    if unreadable:
        return Check("sha256", False, unreadable, (unreadable,))
    if not wanted:
        return Check("sha256", None, f"no {MANIFEST} beside it lists it")
    problems = [
        f"{file.name} has the digest {found[file][:16]}…, but {MANIFEST} lists {digest[:16]}…"
        for file, digest in wanted.items()
        if found[file] != digest
    ]
    return _check("sha256", problems, f"as {MANIFEST} lists it")


def _template_check(summaries: Sequence[GgufSummary], source: TemplateSource | None) -> Check:
    if source is None:
        return Check("template", None, "no checkpoint was given to compare with")
    written = summaries[0].chat_template if summaries else None
    wanted = source.gguf_jinja
    if written in (wanted, source.jinja):
        return Check("template", True, f"that of {source.spec}")
    if written is None:
        what = "The file carries no chat template."
    else:
        at = _first_difference(written, wanted)
        what = (
            f"The chat template is not that of {source.spec}: from character {at} on it is "
            f"{written[at : at + 40]!r}, not {wanted[at : at + 40]!r}."
        )
    return Check("template", False, what, (what,))


def _first_difference(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def _stops_check(summaries: Sequence[GgufSummary], stops: Stops | None) -> Check:
    if stops is None:
        return Check("stops", None, "no checkpoint was given to compare with")
    found = summaries[0].metadata if summaries else {}
    tokens = found.get(_TOKENS)
    if not isinstance(tokens, list):
        problem = "The file has no vocabulary to stop with."
        return Check("stops", False, problem, (problem,))
    slots = {found.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")}
    vocabulary = frozenset(tokens)
    problems = [
        f"llama.cpp would not stop on {tokens[one]!r} ({one})."
        if one < len(tokens)
        else f"The stop id {one} is beyond the file's {len(tokens)} tokens."
        for one in stops.ids
        if one not in slots and not (one < len(tokens) and llamacpp_stops_on(tokens[one], vocabulary))
    ]
    return _check("stops", problems, ", ".join(tokens[one] for one in stops.ids if one < len(tokens)))
