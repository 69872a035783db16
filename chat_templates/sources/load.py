"""`load_source`: what the user names with --template, as a `TemplateSource`.

Knows the spellings: `checkpoint`, `family:NAME`, `xtuner:…`, `llamafactory:…`, `modelfile:PATH`, a path that
ends in .jinja, .toml, .gguf or .modelfile or is called Modelfile. Does not know how a form is found (`probe`)
nor the TOML schema (`toml_form`), nor any trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from chat_templates.dialects.base import DialectFacts
from chat_templates.dialects.jinja import write_jinja
from chat_templates.jinja_engine import TEMPLATE_LIMIT
from chat_templates.modelfile_grammar import parse
from chat_templates.sources.llamafactory import load_llamafactory
from chat_templates.sources.modelfile import is_modelfile, source_of_modelfile
from chat_templates.sources.probe import Probed, probe
from chat_templates.sources.source import TemplateSource
from chat_templates.sources.toml_form import FormFile, Tokens, families, read_family, read_form
from chat_templates.sources.xtuner import load_xtuner
from checkpoint import Checkpoint
from checkpoint.gguf import read_header
from errors import TemplateError, UsageError

__all__ = ["load_source", "source_of_form", "source_of_jinja"]

_TRAINERS: Mapping[str, Callable[[str, Checkpoint | None], TemplateSource]] = {
    "xtuner:": load_xtuner,
    "llamafactory:": load_llamafactory,
}


def load_source(spec: str, checkpoint: Checkpoint | None) -> TemplateSource:
    """Return the template source `spec`.

    `checkpoint` gives the special tokens' texts; only `spec="checkpoint"` cannot do without it. Raises
    `UsageError` for a spec that names nothing, `TemplateError` for a template that cannot be used.
    """
    if spec == "checkpoint":
        return _from_checkpoint(checkpoint)
    tokens = None if checkpoint is None else special_tokens(checkpoint)
    if spec.startswith("family:"):
        return source_of_form(spec, read_family(spec.removeprefix("family:"), tokens))
    for prefix, load in _TRAINERS.items():
        if spec.startswith(prefix):
            return load(spec.removeprefix(prefix), checkpoint)
    if spec.startswith("modelfile:"):
        return _from_modelfile(spec, Path(spec.removeprefix("modelfile:")), checkpoint)
    return _from_file(spec, Path(spec), checkpoint, tokens)


def _from_file(spec: str, path: Path, checkpoint: Checkpoint | None, tokens: Tokens | None) -> TemplateSource:
    """Return the template in a file, told by the file's name. Raises `UsageError` for any other name."""
    if path.suffix == ".toml":
        return source_of_form(spec, read_form(path, tokens))
    if path.suffix in (".jinja", ".jinja2", ".j2"):
        return source_of_jinja(
            spec, f"the Jinja template {path}", _read(path), tokens, path.stem, other_tokens(checkpoint)
        )
    if path.suffix == ".gguf":
        return _from_gguf(spec, path)
    if is_modelfile(path):
        return _from_modelfile(spec, path, checkpoint)
    raise UsageError(
        f"{spec!r} is not a chat template source.",
        hint="It is checkpoint, family:NAME, xtuner:NAME, llamafactory:NAME, FILE.jinja, FILE.toml, "
        "FILE.gguf or a Modelfile; the families are " + ", ".join(families()) + ".",
    )


def special_tokens(checkpoint: Checkpoint) -> Tokens:
    """Return the texts of BOS and EOS, as far as the tokenizer has them."""
    return checkpoint.tokenizer.bos_token, checkpoint.tokenizer.eos_token


def other_tokens(checkpoint: Checkpoint | None) -> dict[str, str]:
    """Return the other special tokens that transformers hands to a template, by name."""
    if checkpoint is None:
        return {}
    found = {}
    for name in ("pad_token", "unk_token", "sep_token", "cls_token", "mask_token"):
        value = checkpoint.tokenizer.config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and text:
            found[name] = text
    return found


def source_of_jinja(
    spec: str,
    description: str,
    jinja: str,
    tokens: Tokens | None,
    name: str,
    others: Mapping[str, str] | None = None,
) -> TemplateSource:
    """Return the source for a Jinja text, probed. Raises `TemplateError` when it cannot run at all."""
    bos, eos = tokens or (None, None)
    others = others or {}
    probed: Probed = probe(jinja, name=name, bos_token=bos, eos_token=eos, other_tokens=others)
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
        other_tokens=others,
        typed_content=probed.typed_content,
    )


def source_of_form(spec: str, file: FormFile) -> TemplateSource:
    """Return the source for a form; its Jinja is written from it."""
    kind = "the family" if spec.startswith("family:") else "the form in"
    return TemplateSource(
        spec=spec,
        description=f"{kind} {spec.removeprefix('family:')}"
        + (f": {file.description}" if file.description else ""),
        origin="form",
        jinja=write_jinja(file.form),
        form=file.form,
        bos_token=file.bos_token,
        eos_token=file.eos_token,
    )


def _from_checkpoint(checkpoint: Checkpoint | None) -> TemplateSource:
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
    return source_of_jinja(
        "checkpoint",
        f"the checkpoint's own {file}",
        jinja,
        special_tokens(checkpoint),
        checkpoint.name,
        other_tokens(checkpoint),
    )


def _from_modelfile(spec: str, path: Path, checkpoint: Checkpoint | None) -> TemplateSource:
    """Return what Ollama feeds for a Modelfile whose GGUF has the checkpoint's tokenizer."""
    bos, eos = (None, None) if checkpoint is None else special_tokens(checkpoint)
    facts = DialectFacts(bos, eos, adds_bos=checkpoint is not None and checkpoint.tokenizer.adds_bos)
    return source_of_modelfile(spec, path, parse(_read(path)), facts)


def _from_gguf(spec: str, path: Path) -> TemplateSource:
    """Return the template inside a GGUF file, with the BOS and EOS that this file names."""
    header = read_header(path, ("tokenizer.ggml.tokens",))
    if header.chat_template is None:
        raise TemplateError(
            f"{path} holds no chat template (tokenizer.chat_template).",
            hint="Name the one its model was trained with: --template family:NAME, FILE.jinja or FILE.toml.",
        )
    found = header.metadata.get("tokenizer.ggml.tokens")
    vocabulary = found if isinstance(found, list) else []

    def token(kind: str) -> str | None:
        number = header.metadata.get(f"tokenizer.ggml.{kind}_token_id")
        if not isinstance(number, int) or not 0 <= number < len(vocabulary):
            return None
        return str(vocabulary[number])

    description = f"the chat template inside {path}"
    return source_of_jinja(spec, description, header.chat_template, (token("bos"), token("eos")), path.stem)


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
