"""Write the proven dialects of a chat template to a directory, and the proof beside them.

A dialect that is refused for plain chats is not written unless inexact ones are allowed, and then its file
name says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from chat_templates.dialects import DIALECTS
from chat_templates.proof_results import Proof
from files import dump_json, write_text

__all__ = ["PROOF", "dialect_texts", "export_dialects"]

PROOF = "proof.json"


def dialect_texts(proof: Proof, *, allow_inexact: bool = False) -> dict[str, tuple[str, str]]:
    """Return dialect -> (file name, text) for every dialect that may be written."""
    texts = {}
    for name, result in proof.dialects.items():
        if result.text is None or not (result.ok or allow_inexact):
            continue
        filename = DIALECTS[name].filename
        texts[name] = (filename if result.ok else f"inexact-{filename}", result.text)
    return texts


def export_dialects(proof: Proof, directory: Path, *, allow_inexact: bool = False) -> Mapping[str, Path]:
    """Write the dialects and proof.json to `directory`; return dialect -> path of its file.

    Raises `OutputError` where the directory cannot be written.
    """
    files = {}
    for name, (filename, text) in dialect_texts(proof, allow_inexact=allow_inexact).items():
        files[name] = directory / filename
        write_text(files[name], text)
    write_text(directory / PROOF, dump_json(proof.as_json(files)))
    return files
