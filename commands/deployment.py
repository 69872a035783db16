"""The command that writes manifests. Heavy imports live inside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from commands.base import MODEL, TEMPLATE, Result, verb
from errors import UsageError

__all__ = ["COMMANDS"]

KINDS = ("compose", "kubernetes", "systemd", "ray")
ENGINES = ("vllm", "lmdeploy", "llamacpp", "ollama")
_UNITS = {"": 1, "M": 10**6, "G": 10**9, "T": 10**12, "Mi": 1 << 20, "Gi": 1 << 30}


def _size(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Read a size such as 80G or 24Gi."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(Mi|Gi|[MGT])?B?", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no size; examples: 80G, 24Gi")
    return int(float(match[1]) * _UNITS[match[2] or ""])


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@MODEL
@click.option("--engine", type=click.Choice(ENGINES), required=True, help="What serves it.")
@TEMPLATE
@click.option("--type", "gguf_type", default="q8_0", show_default=True, help="GGUF type (llamacpp, ollama).")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Directory for the files [default: stdout]"
)
@click.option("--name", help="The model's name in the API [default: the directory's name]")
@click.option("--host", default="127.0.0.1", show_default=True, help="systemd: address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="[default: 8000; ollama: 11434]")
@click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="Machines.")
@click.option("--gpus-per-node", type=click.IntRange(0), default=1, show_default=True, help="0: no GPU.")
@click.option("--gpu-memory", callback=_size, metavar="SIZE", help="Memory of a GPU, such as 80G.")
@click.option("--context", type=click.IntRange(1), help="Tokens of a conversation [default: the model's]")
@click.option("--image", help="The engine's container image.")
@click.option("--router-image", help="vllm-router's container image (several replicas).")
@click.option(
    "--portside-image",
    default="portside:latest",
    show_default=True,
    help="Portside's, which proves the answers.",
)
@click.option(
    "--model-path",
    metavar="PATH",
    help="Where the weights lie on the machines; kubernetes: or pvc:CLAIM [default: the checkpoint's "
    "directory, pvc:NAME-model]",
)
@click.option("--with-webui", is_flag=True, help="Open WebUI beside it (compose, kubernetes).")
@click.option("--systemd-version", type=click.IntRange(200), help="[default: this machine's]")
@click.argument("engine_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- ENGINE ARGS…]")
@verb
def deploy(kind: str, output: Path | None, systemd_version: int | None, **options: Any) -> Result:
    """Write the manifests that serve MODEL on ENGINE.

    They are made from the same plan as `serve`. The model is split over the cluster's GPUs by its size, and
    what was chosen is explained. Nothing is ready before `portside health` has proven its answers.
    """
    from dataclasses import fields

    import console
    from deploy.engines.base import ServeRequest
    from deploy.manifests import RAY_IMAGE, Wishes, plan_deployment, render

    if options["with_webui"] and kind in ("systemd", "ray"):
        raise UsageError(f"--with-webui is for compose and kubernetes, not for {kind}.")
    wished = {field.name: options.pop(field.name) for field in fields(Wishes) if field.name in options}
    if kind == "ray":
        wished["image"] = wished["image"] or RAY_IMAGE
    if wished["router_image"] is None:
        del wished["router_image"]
    request = ServeRequest(**options)
    deployment = plan_deployment(request, Wishes(**wished))
    manifests = render(kind, deployment, request, systemd=systemd_version)
    written = manifests.write(output) if output else []

    def show() -> None:
        for reason in deployment.parallel.reasons:
            console.err.print(f"[dim]{reason}[/]", soft_wrap=True)
        if not output:
            for name, text in manifests.files.items():
                console.print_line(text if len(manifests.files) == 1 else f"# {name}\n{text}")
        for path in written:
            console.print_line(f"Wrote {path}")
        for number, step in enumerate(manifests.steps, 1):
            console.err.print(f"[cyan]{number}.[/] {step}", soft_wrap=True, markup=True)

    facts = {
        "kind": kind,
        "name": deployment.name,
        "engine": request.engine,
        "image": deployment.image,
        "parallel": deployment.parallel.as_json(),
        "startup_seconds": deployment.startup_seconds,
        "files": {name: None if output else text for name, text in manifests.files.items()},
        "directory": str(output) if output else None,
        "steps": list(manifests.steps),
        "plan": deployment.plan.as_json(),
    }
    return facts, show, 0


COMMANDS = (deploy,)
