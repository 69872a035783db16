"""The bundle: one directory with everything that a deployment needs, and the proof that it is right.

GGUF files, the chat template in every dialect that is exact, an Ollama Modelfile, proof.json and
manifest.json (sha256, sizes, source, versions). Does not know how any of them is made, nor any engine's
command line.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chat_templates import Proof, Stops, TemplateSource, analyse_stops, export_dialects, prove
from chat_templates.export import PROOF
from checkpoint import Checkpoint
from convert import SHARD_NAME, plan_conversion, run_conversion
from errors import OutputError, TemplateError
from files import dump_json, replacing_directory, write_text
from modelfiles import modelfile_for, write

__all__ = ["Bundle", "Entry", "build_bundle", "make_modelfile"]

MANIFEST = "manifest.json"
MODELFILE = "Modelfile"
TOOLS = ("portside", "libggml-python", "gguf", "tokenizers")
_PURPOSES = {
    "chat_template.jinja": "vLLM --chat-template, LMDeploy --chat-template hf",
    "gguf.jinja": "inside the GGUF files; llama-server --chat-template-file for those of others",
    "ollama.gotmpl": "the TEMPLATE of the Modelfile",
    "lmdeploy.json": "LMDeploy --chat-template",
    MODELFILE: "ollama create NAME -f Modelfile",
    PROOF: "every class of conversation, dialect by dialect",
    MANIFEST: "sha256, sizes, source, versions",
}

Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """One file of a bundle; `bytes` is its size."""

    name: str
    bytes: int
    sha256: str
    purpose: str

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "bytes": self.bytes, "sha256": self.sha256, "purpose": self.purpose}


@dataclass(frozen=True)
class Bundle:
    """A bundle that has been written."""

    directory: Path
    entries: tuple[Entry, ...]
    left_out: tuple[str, ...]
    """What could not be made, each with the reason."""
    proof: Proof

    def as_json(self) -> dict[str, Any]:
        by_name = {entry.name for entry in self.entries}
        files = {
            name: self.directory / filename for name, filename in _dialect_files(self.proof, by_name).items()
        }
        return {
            "directory": str(self.directory),
            "files": [entry.as_json() for entry in self.entries],
            "left_out": list(self.left_out),
            **self.proof.as_json(files),
        }


def make_modelfile(
    checkpoint: Checkpoint,
    source: TemplateSource,
    gguf: Path | None,
    directory: Path,
    *,
    adapter: Path | None = None,
) -> str:
    """Return the text of the Ollama Modelfile for `checkpoint`, to be written in `directory`.

    `gguf` defaults to the name that `portside gguf` gives its Q8_0 file, in the same directory; `adapter` is
    the GGUF file of an adapter to it. Raises
    `TemplateError` when no Go template says what `source` says for plain chats, or when the Modelfile's
    grammar would lose part of a value.
    """
    stops = analyse_stops(source, checkpoint)
    proof = prove(source, checkpoint, ("gguf", "ollama"))
    if gguf is None:
        gguf = plan_conversion(checkpoint, ("q8_0",), directory, source=source, stops=stops).files[0].path
    return _modelfile(checkpoint, source, stops, proof, gguf, directory, adapter)


def build_bundle(
    checkpoint: Checkpoint,
    source: TemplateSource,
    types: Sequence[str],
    directory: Path,
    *,
    split: int | None = None,
    allow_inexact: bool = False,
    progress: Advance | None = None,
) -> Bundle:
    """Make the whole bundle beside `directory` and rename it into place when it is complete.

    `types` are GGUF types, `split` the largest size of a shard of a GGUF. An existing bundle is replaced; any
    other non-empty directory is refused.
    """
    _refuse_foreign(directory)
    stops = analyse_stops(source, checkpoint)
    proof = prove(source, checkpoint)
    left_out = [
        f"{name}: {result.refusal or result.classes['chat'].reason}"
        for name, result in proof.dialects.items()
        if not result.ok
    ]
    with replacing_directory(directory) as partial:
        plan = plan_conversion(checkpoint, types, partial, source=source, stops=stops, split=split)
        converted = run_conversion(plan, progress=progress)
        export_dialects(proof, partial, allow_inexact=allow_inexact)
        try:
            text = _modelfile(checkpoint, source, stops, proof, converted[0].path, partial)
            write_text(partial / MODELFILE, text)
        except TemplateError as error:
            left_out.append(f"{MODELFILE}: {error.message}")
        hashes = {file.path.name: file.sha256 for file in converted}
        entries = tuple(_entry(path, hashes) for path in sorted(partial.iterdir()))
        manifest = _manifest(checkpoint, source, stops, entries, left_out)
        write_text(partial / MANIFEST, dump_json(manifest))
        entries += (_entry(partial / MANIFEST, {}),)
    return Bundle(directory, entries, tuple(left_out), proof)


def _modelfile(
    checkpoint: Checkpoint,
    source: TemplateSource,
    stops: Stops,
    proof: Proof,
    gguf: Path,
    directory: Path,
    adapter: Path | None = None,
) -> str:
    if SHARD_NAME.fullmatch(gguf.name):
        raise TemplateError(
            f"{gguf.name} is a shard of a GGUF file, and Ollama takes none.",
            hint="Write it in one file, without --split-max-size.",
        )
    made = modelfile_for(checkpoint, source, stops, proof, _relative(gguf, directory))
    return write(replace(made, adapter=_relative(adapter, directory)) if adapter else made)


def _relative(file: Path, directory: Path) -> str:
    """Return how a Modelfile in `directory` names `file`: Ollama takes a name without a dot for a model's."""
    relative = os.path.relpath(file, directory)
    return relative if relative.startswith("..") else f"./{relative}"


def _refuse_foreign(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir() or (any(directory.iterdir()) and not (directory / MANIFEST).is_file()):
        raise OutputError(
            f"{directory} exists and is not a bundle.", hint="Choose another directory with -o, or remove it."
        )


def _entry(path: Path, hashes: dict[str, str]) -> Entry:
    purpose = _PURPOSES.get(path.name, "llama.cpp, Ollama" if path.suffix == ".gguf" else "")
    if path.name.startswith("inexact-"):
        purpose = "NOT exact: see proof.json"
    digest = hashes.get(path.name) or hashlib.sha256(path.read_bytes()).hexdigest()
    return Entry(path.name, path.stat().st_size, digest, purpose)


def _manifest(
    checkpoint: Checkpoint,
    source: TemplateSource,
    stops: Stops,
    entries: Sequence[Entry],
    left_out: Sequence[str],
) -> dict[str, Any]:
    return {
        "model": checkpoint.name,
        "architecture": checkpoint.config.architecture,
        "source": {
            "checkpoint": str(checkpoint.path),
            "adapter": str(checkpoint.adapter) if checkpoint.adapter else None,
            "weights": checkpoint.weights.fingerprint(),
        },
        "template": {"source": source.spec, "description": source.description},
        "stops": {"ids": list(stops.ids), "strings": list(stops.strings)},
        "versions": {tool: _version(tool) for tool in TOOLS},
        "files": [entry.as_json() for entry in entries],
        "left_out": list(left_out),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _dialect_files(proof: Proof, names: set[str]) -> dict[str, str]:
    from chat_templates.export import dialect_texts

    texts = dialect_texts(proof, allow_inexact=True)
    return {dialect: filename for dialect, (filename, _) in texts.items() if filename in names}
