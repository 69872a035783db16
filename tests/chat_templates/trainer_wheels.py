"""The trainers' own code, run at test time out of their wheels, with a tokenizer whose tokens are characters.

The modules that make the training text are executed as they are. What they import beyond each other (torch,
datasets, image handling, logging) is replaced: text-only samples use none of it. A special token is one
element of the list of "ids", so the ids joined are the training text.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
import sys
import types
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from chat_templates.template import Message
from chat_templates.trainers.refresh import LLAMAFACTORY, XTUNER
from checkpoint.wheel import Wheel
from errors import EngineMissing

__all__ = [
    "Characters",
    "Qwen2TokenizerFast",
    "Trained",
    "llamafactory_modelfile",
    "llamafactory_text",
    "xtuner_templates",
    "xtuner_text",
]

Stubs = Mapping[str, Mapping[str, Any]]
Trained = tuple[str, list[str]]
"""The text of a whole sample, and the prompt in front of each of its answers."""


class Characters:
    """A tokenizer that maps text to its characters and a special token to itself."""

    chat_template = "{{ '' }}"
    pad_token_id = 0
    pad_token = "<pad>"

    def __init__(self, bos: str | None, eos: str | None) -> None:
        self.bos_token = self.bos_token_id = bos
        self.eos_token = self.eos_token_id = eos

    def encode(self, text: str, add_special_tokens: bool = True) -> list[str]:
        assert not add_special_tokens
        return list(text)

    def convert_tokens_to_ids(self, token: str) -> str:
        return token

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        return ids

    def add_special_tokens(self, tokens: Mapping[str, Any], **_: Any) -> int:
        if "eos_token" in tokens:
            self.eos_token = self.eos_token_id = tokens["eos_token"]
        return 0


class Qwen2TokenizerFast(Characters):
    """One of the classes that XTuner gives no BOS."""


class ConfigDict(dict[str, Any]):
    """mmengine's dictionary, as far as XTuner's templates need it."""

    def __init__(self, **entries: Any) -> None:
        super().__init__({k: ConfigDict(**v) if isinstance(v, dict) else v for k, v in entries.items()})

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


class _Plugin:
    """LLaMA-Factory's multimodal plugin for samples without any media."""

    def process_messages(self, messages: Any, *_: Any) -> Any:
        return messages

    def process_token_ids(self, ids: Any, labels: Any, *_: Any) -> Any:
        return ids, labels


def _fetch(wheel: Wheel) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel.fetch())
    except EngineMissing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no wheel of {wheel.requirement}: {error}")


def _load(wheel: Wheel, members: Sequence[str], stubs: Stubs) -> dict[str, types.ModuleType]:
    """Execute `members` of the wheel in their order, each seeing the ones before it and the stubs."""
    names = [member.removesuffix(".py").replace("/", ".") for member in members]
    parents = {name.rsplit(".", depth)[0] for name in names for depth in (1, 2, 3)}
    before = {name: sys.modules.get(name) for name in {*names, *parents, *stubs}}
    found: dict[str, types.ModuleType] = {}
    with _fetch(wheel) as archive:
        try:
            for name in sorted(parents) + sorted(stubs):
                sys.modules[name] = types.ModuleType(name)
                sys.modules[name].__dict__.update(stubs.get(name, {}))
            for name, member in zip(names, members, strict=True):
                module = sys.modules[name] = found[name] = types.ModuleType(name)
                module.__package__ = name.rpartition(".")[0]
                exec(compile(archive.read(member), member, "exec"), vars(module))
        finally:
            for name, old in before.items():
                if old is None:
                    sys.modules.pop(name, None)
                else:
                    sys.modules[name] = old
    return found


# XTuner


@functools.cache
def _xtuner() -> dict[str, types.ModuleType]:
    stubs: Stubs = {
        "mmengine": {},
        "mmengine.config": {"ConfigDict": ConfigDict},
        "mmengine.utils": {},
        "mmengine.utils.misc": {"get_object_from_string": None},
        "numpy": {},
        "requests": {},
        "PIL": {"Image": None},
        "xtuner.utils": {"DEFAULT_IMAGE_TOKEN": "<image>", "IGNORE_INDEX": -100, "IMAGE_TOKEN_INDEX": -200},
    }
    members = (
        "xtuner/utils/templates.py",
        "xtuner/dataset/map_fns/template_map_fn.py",
        "xtuner/dataset/utils.py",
    )
    return _load(XTUNER, members, stubs)


def xtuner_templates() -> dict[str, Any]:
    """Return XTuner's PROMPT_TEMPLATE."""
    return dict(_xtuner()["xtuner.utils.templates"].PROMPT_TEMPLATE)


def xtuner_text(template: Mapping[str, Any], messages: Sequence[Message], tokenizer: Characters) -> Trained:
    """Return what XTuner trains on; `messages` are a system message or none, then pairs."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    turns = list(messages[1:] if system is not None else messages)
    pairs = [
        {"input": q["content"], "output": a["content"]} for q, a in zip(turns[::2], turns[1::2], strict=True)
    ]
    if system is not None:
        pairs[0]["system"] = system
    map_fn = _xtuner()["xtuner.dataset.map_fns.template_map_fn"].template_map_fn
    encode = _xtuner()["xtuner.dataset.utils"].encode_fn
    conversation = map_fn({"conversation": pairs}, ConfigDict(**template))["conversation"]

    def text(sample: list[dict[str, Any]], **options: Any) -> str:
        return "".join(encode({"conversation": sample}, tokenizer, 1 << 20, **options)["input_ids"])

    prompts = []
    for index, turn in enumerate(conversation):
        silent = {**turn, "output": "", "need_eos_token": False, "sep": ""}
        prompts.append(text([*conversation[:index], silent]))
    return text(conversation), prompts


# LLaMA-Factory


class _Logger(logging.Logger):
    def info_rank0(self, *_: Any) -> None: ...

    def warning_rank0(self, *_: Any) -> None: ...


@functools.cache
def _llamafactory() -> dict[str, types.ModuleType]:
    stubs: Stubs = {
        "fsspec": {},
        "datasets": dict.fromkeys(("DatasetDict", "concatenate_datasets", "interleave_datasets")),
        "llamafactory.extras": {
            "logging": types.SimpleNamespace(get_logger=lambda _: _Logger("llamafactory-oracle"))
        },
        "llamafactory.extras.constants": {"IGNORE_INDEX": -100},
        "llamafactory.data.mm_plugin": {"get_mm_plugin": lambda *_, **__: _Plugin()},
    }
    data = ("data_utils", "tool_utils", "formatter", "template", "processor/processor_utils")
    members = [f"llamafactory/data/{name}.py" for name in (*data, "processor/supervised")]
    return _load(LLAMAFACTORY, members, stubs)


def llamafactory_modelfile(name: str, tokenizer: Characters) -> str:
    """Return the Modelfile that LLaMA-Factory exports for the template `name`."""
    template = copy.deepcopy(_llamafactory()["llamafactory.data.template"].TEMPLATES[name])
    text: str = template.get_ollama_modelfile(tokenizer)
    return text


def llamafactory_text(
    name: str, messages: Sequence[Message], tokenizer: Characters, **arguments: Any
) -> Trained:
    """Return what LLaMA-Factory trains on with the data arguments given, its defaults otherwise."""
    modules = _llamafactory()
    given = {
        "template": name,
        "train_on_prompt": False,
        "tool_format": None,
        "default_system": None,
        "enable_thinking": True,
        "preserve_thinking": False,
        "mask_history": False,
        "cutoff_len": 1 << 20,
    } | arguments
    data_args = types.SimpleNamespace(**given)
    module = modules["llamafactory.data.template"]
    kept = module.TEMPLATES[name]
    module.TEMPLATES[name] = copy.deepcopy(kept)  # the arguments are written into the template
    try:
        template = module.get_template_and_fix_tokenizer(tokenizer, data_args)
    finally:
        module.TEMPLATES[name] = kept
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    turns = [dict(message) for message in messages if message["role"] != "system"]
    processor = modules["llamafactory.data.processor.supervised"].SupervisedDatasetProcessor(
        template, tokenizer, None, data_args
    )
    ids, _ = processor._encode_data_example(turns[:-1], turns[-1:], system, "", [], [], [])
    pairs = template.encode_multiturn(tokenizer, turns, system, "")
    prompts, before = [], ""
    for source, target in pairs:
        prompts.append(before + "".join(source))
        before += "".join(source) + "".join(target)
    return "".join(ids), prompts
