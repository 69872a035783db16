"""The served view: a directory that shows an engine the checkpoint with its template and stop ids put right.

Knows which files carry the chat template and the stop ids, and makes links to everything else. Never writes
into the checkpoint. Does not know engines.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chat_templates.sources.source import TemplateSource
from chat_templates.stops import Stops
from checkpoint import Checkpoint
from errors import OutputError
from files import dump_json, replacing_directory

__all__ = ["MARK", "view_files", "view_links", "write_served_view"]

MARK = ".portside-view.json"
"""Says that a directory is a view and may be replaced by the next one."""

_WRITTEN = {"generation_config.json", "tokenizer_config.json", "chat_template.jinja"}
_LEFT_OUT = {"chat_template.json", "additional_chat_templates"}
"""Older homes of a chat template, which would compete with the right one."""


def write_served_view(
    checkpoint: Checkpoint,
    source: TemplateSource,
    stops: Stops,
    directory: Path,
    *,
    extras: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write the view to `directory` and return it; an older view there is replaced as a whole.

    `extras` are further files of an engine, name -> text; they hide the checkpoint's of that name.
    Raises `OutputError` where the directory lies in the checkpoint or holds anything but a view.
    """
    _require_own_place(checkpoint, directory)
    original = checkpoint.path.absolute()
    with replacing_directory(directory) as view:
        for name in view_links(checkpoint, extras):
            (view / name).symlink_to(original / name)
        for name, text in {**view_files(checkpoint, source, stops), **extras}.items():
            _write(view / name, text)
        _write(view / MARK, dump_json({"checkpoint": str(original), "template": source.spec}))
    return directory


def view_files(checkpoint: Checkpoint, source: TemplateSource, stops: Stops) -> dict[str, str]:
    """Return the files that a view has of its own: name -> text."""
    files = {
        "chat_template.jinja": source.jinja,
        "generation_config.json": dump_json(_generation_config(checkpoint, stops)),
    }
    if (checkpoint.path / "tokenizer_config.json").exists():
        config = {k: v for k, v in checkpoint.tokenizer.config.items() if k != "chat_template"}
        files["tokenizer_config.json"] = dump_json(config)
    return files


def view_links(checkpoint: Checkpoint, extras: Collection[str] = ()) -> list[str]:
    """Return the names of the checkpoint's files that a view links to."""
    hidden = {*_WRITTEN, *_LEFT_OUT, *extras}
    names = sorted(entry.name for entry in checkpoint.path.absolute().iterdir())
    return [name for name in names if name not in hidden and not name.startswith(".")]


def _generation_config(checkpoint: Checkpoint, stops: Stops) -> dict[str, Any]:
    config = dict(checkpoint.generation.raw)
    if not checkpoint.generation.exists and checkpoint.config.bos_token_id is not None:
        config["bos_token_id"] = checkpoint.config.bos_token_id
    if stops.ids:
        config["eos_token_id"] = stops.ids[0] if len(stops.ids) == 1 else list(stops.ids)
    return config


def _require_own_place(checkpoint: Checkpoint, directory: Path) -> None:
    original, place = checkpoint.path.resolve(), directory.resolve()
    if place == original or original in place.parents:
        raise OutputError(
            f"A view of {checkpoint.path} cannot be written into that directory itself.",
            hint="Choose a place outside of the checkpoint.",
        )
    if directory.is_dir() and not (directory / MARK).exists() and any(directory.iterdir()):
        raise OutputError(
            f"{directory} holds files that Portside did not write, so it is not replaced.",
            hint="Choose an empty or a new directory.",
        )


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8"))
