"""The `portside` command. Its verbs are in `commands`; `serve.py` is the front door of one of them."""

from __future__ import annotations

import click

from commands import (
    bench,
    compare,
    deployment,
    engines,
    health,
    hub,
    merging,
    models,
    quantize,
    servers,
    up,
    webui,
)
from commands.base import Group

__all__ = ["main"]

ROAD = (models, hub, merging, quantize, engines, servers, health, up, bench, compare, webui, deployment)
"""The modules in the order in which their verbs are listed."""


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="portside", message="portside %(version)s")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
def main(debug: bool) -> None:
    """From a merged Hugging Face checkpoint to a served model that answers as it was trained."""
    del debug  # read from the arguments by Group.main, which outlives this function


for module in ROAD:
    for command in module.COMMANDS:
        main.add_command(command)

if __name__ == "__main__":
    main()
