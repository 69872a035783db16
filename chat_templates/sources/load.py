"""`load_source`: what the user names with --template, as a `TemplateSource`.

Knows the spellings: `checkpoint`, `family:NAME`, a path that ends in .jinja or .toml. Does not know how a
form is found (`probe`) nor the TOML schema (`toml_form`).
"""

from __future__ import annotations

from pathlib import Path

from chat_templates.dialects.jinja import write_jinja
from chat_templates.jinja_engine import TEMPLATE_LIMIT
from chat_templates.sources.probe import Probed, probe
from chat_templates.sources.source import TemplateSource
from chat_templates.sources.toml_form import FormFile, families, read_family, read_form
from checkpoint import Checkpoint
from errors import TemplateError, UsageError

__all__ = ["load_source", "source_of_form", "source_of_jinja"]

_LATER = ("xtuner:", "llamafactory:")


def load_source(spec: str, checkpoint: Checkpoint | None) -> TemplateSource:
    """Return the template source `spec`.

    `checkpoint` gives the special tokens' texts; only `spec="checkpoint"` cannot do without it. Raises
    `UsageError` for a spec that names nothing, `TemplateError` for a template that cannot be used.
    """
    bos, eos = special_tokens(checkpoint)
    if spec == "checkpoint":
        return _from_checkpoint(checkpoint, bos, eos)
    if spec.startswith("family:"):
        file = read_family(spec.removeprefix("family:"), bos_token=bos, eos_token=eos)
        return source_of_form(spec, file, _given(checkpoint))
    if spec.startswith(_LATER):
        raise UsageError(
            f"Templates of other trainers ({spec!r}) cannot be read yet.",
            hint="Write the same texts to a TOML file (docs/template-toml.md), or take a family: "
            + ", ".join(families())
            + ".",
        )
    path = Path(spec)
    if path.suffix == ".toml":
        return source_of_form(spec, read_form(path, bos_token=bos, eos_token=eos), _given(checkpoint))
    if path.suffix in (".jinja", ".jinja2", ".j2"):
        return source_of_jinja(spec, f"the Jinja template {path}", _read(path), bos, eos, path.stem)
    raise UsageError(
        f"{spec!r} is not a chat template source.",
        hint="It is checkpoint, family:NAME, FILE.jinja or FILE.toml; the families are "
        + ", ".join(families())
        + ".",
    )


def special_tokens(checkpoint: Checkpoint | None) -> tuple[str | None, str | None]:
    """Return the texts of BOS and EOS, as far as the checkpoint names them."""
    if checkpoint is None:
        return None, None
    return checkpoint.tokenizer.bos_token, checkpoint.tokenizer.eos_token


def source_of_jinja(
    spec: str, description: str, jinja: str, bos: str | None, eos: str | None, name: str
) -> TemplateSource:
    """Return the source for a Jinja text, probed. Raises `TemplateError` when it is not Jinja at all."""
    probed: Probed = probe(jinja, name=name, bos_token=bos, eos_token=eos)
    if probed.broken is not None and probed.broken.kind in ("syntax", "limit", "security"):
        raise TemplateError(f"{probed.broken.message} (It is {description}.)", hint=probed.broken.hint)
    return TemplateSource(
        spec=spec,
        description=description,
        origin="jinja",
        jinja=jinja,
        form=probed.form,
        form_refusal=probed.refusal,
        bos_token=bos,
        eos_token=eos,
    )


def source_of_form(spec: str, file: FormFile, tokens: tuple[str | None, str | None] | None) -> TemplateSource:
    """Return the source for a form; its Jinja is written from it. `tokens` are a checkpoint's."""
    bos, eos = tokens if tokens is not None else (file.bos_token, file.eos_token)
    kind = "the family" if spec.startswith("family:") else "the form in"
    return TemplateSource(
        spec=spec,
        description=f"{kind} {spec.removeprefix('family:')}"
        + (f": {file.description}" if file.description else ""),
        origin="form",
        jinja=write_jinja(file.form),
        form=file.form,
        bos_token=bos,
        eos_token=eos,
    )


def _given(checkpoint: Checkpoint | None) -> tuple[str | None, str | None] | None:
    return None if checkpoint is None else special_tokens(checkpoint)


def _from_checkpoint(checkpoint: Checkpoint | None, bos: str | None, eos: str | None) -> TemplateSource:
    if checkpoint is None:
        raise UsageError(
            "The source `checkpoint` needs a checkpoint.",
            hint="Name the model directory, or another source such as family:chatml.",
        )
    jinja = checkpoint.chat_template
    if jinja is None:
        raise TemplateError(
            f"{checkpoint.path} has no chat template.",
            hint="Name the one it was trained with: --template family:NAME, FILE.jinja or FILE.toml; the "
            f"families are {', '.join(families())}.",
        )
    stored = checkpoint.chat_templates.jinja_file is not None
    file = "chat_template.jinja" if stored else "tokenizer_config.json"
    return source_of_jinja("checkpoint", f"the checkpoint's own {file}", jinja, bos, eos, checkpoint.name)


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TemplateError(
            f"Cannot read the chat template {path}: {error.strerror or error}.", hint="Check the path."
        ) from error
    if len(data) > TEMPLATE_LIMIT * 4:
        raise TemplateError(f"The chat template {path} has {len(data):,} bytes: it cannot be one.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TemplateError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
