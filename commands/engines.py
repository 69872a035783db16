"""`portside engines`: which engines there are, and making an environment for one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.base import Result, print_json, verb

if TYPE_CHECKING:
    from deploy.install import InstallPlan

__all__ = ["COMMANDS"]

INSTALLABLE = ("vllm", "lmdeploy", "llama-cpp-python", "ollama")


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")
@click.pass_context
def engines(context: click.Context, as_json: bool) -> int:
    """Tell which engines are installed, and where.

    They are looked for in this order: the variables PORTSIDE_VLLM, PORTSIDE_LMDEPLOY, PORTSIDE_OLLAMA,
    PORTSIDE_LLAMA_SERVER and PORTSIDE_LLAMA_CPP_PYTHON, [engines] of ./portside.toml, PATH, and what
    `portside engines install` has made.
    """
    if context.invoked_subcommand is not None:
        return 0
    import console
    from deploy import detect_engines

    found = detect_engines()
    if as_json:
        print_json({"engines": [engine.as_json() for engine in found]})
    else:
        console.show_engines(found)
    return 0


@engines.command()
@click.argument("engine", type=click.Choice(INSTALLABLE))
@click.option("--path", type=click.Path(path_type=Path), help="Where to [default: Portside's cache]")
@click.option(
    "--build",
    type=click.Choice(("cuda", "cpu", "ascend")),
    help="The build to install [default: the one for this machine]",
)
@click.option("--again", is_flag=True, help="Make it anew, even if it is there.")
@click.option(
    "--from",
    "release_from",
    type=click.Choice(("auto", "ollama", "modelscope")),
    default="auto",
    show_default=True,
    help="ollama: its site, or ModelScope; auto: ModelScope if the site is slow or cannot be reached.",
)
@click.option("--url", help="ollama: the address of a tarball, of a mirror say.")
@click.option("--sha256", help="ollama: what the tarball has to be.")
@click.option("--dry-run", is_flag=True, help="Print the commands, run nothing.")
@verb
def install(dry_run: bool, again: bool, **options: Any) -> Result:
    """Install an engine, in an environment of its own.

    Nothing outside of its directory is touched, root is not needed. It appears there when it is complete;
    then `portside engines` and `portside serve` find it without any variable. An engine that is there already
    is left alone. --path: name the place with the engine's variable or in portside.toml afterwards.
    """
    from commands.engines_view import InstallProgress, show_commands, show_installed
    from deploy.install import plan_install, run_install

    plan: InstallPlan = plan_install(options.pop("engine"), **options)
    if dry_run:
        return plan.as_json(), lambda: show_commands(plan), 0
    with InstallProgress(plan) as view:
        done = run_install(plan, view, again=again)
    return done.as_json(), lambda: show_installed(done), 0


COMMANDS = (engines,)
