"""The command that brings a checkpoint from a hub.

Heavy imports live inside the command, so that `portside --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.base import Result, verb
from errors import UsageError

if TYPE_CHECKING:
    from checkpoint.hub import Fetched, HubReference

__all__ = ["COMMANDS"]


@click.command()
@click.argument("repo")
@click.option(
    "--from",
    "hub",
    type=click.Choice(["hf", "modelscope"]),
    help="The hub [default: what REPO begins with, else hf]",
)
@click.option("--revision", metavar="R", help="Branch, tag or commit [default: the newest]")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Put the files here instead of into the hub's own cache.",
)
@verb
def fetch(repo: str, hub: str | None, revision: str | None, output: Path | None) -> Result:
    """Fetch the checkpoint REPO from Hugging Face or ModelScope.

    REPO is ORGANISATION/NAME, hf:ORGANISATION/NAME or modelscope:ORGANISATION/NAME, and may end in @REVISION.
    Only the files that a checkpoint needs are fetched, each is verified, and a download that was interrupted
    goes on where it stopped. Mirrors and tokens are named as the hubs' libraries have it: HF_ENDPOINT,
    HF_TOKEN, MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN.
    """
    import console
    from checkpoint.hub import fetch as fetch_from_hub

    reference = _reference(repo, hub, revision)
    with console.progress(f"Fetching {reference}") as advance:
        fetched = fetch_from_hub(reference, output=output, progress=advance, notify=console.print_warning)
    return fetched.as_json(), lambda: _show(fetched), 0


def _reference(repo: str, hub: str | None, revision: str | None) -> HubReference:
    from checkpoint.hub import HubReference, parse_reference

    named = parse_reference(repo)
    if named is None:
        return HubReference.of("modelscope" if hub == "modelscope" else "hf", repo, revision)
    if hub not in (None, named.hub):
        raise UsageError(f"{repo!r} lies on {named.hub}, --from says {hub}.", hint="Leave out one of them.")
    if revision is None:
        return named
    return HubReference.of(named.hub, repo.partition(":")[2], revision)


def _show(fetched: Fetched) -> None:
    import console

    here = fetched.bytes - fetched.downloaded
    console.print_line(
        f"{fetched.reference} at {fetched.revision[:12]}: {len(fetched.files)} files, "
        f"{console.human_bytes(fetched.bytes)}"
        + (f" ({console.human_bytes(here)} were here already)" if here > 0 else "")
    )
    console.print_line(str(fetched.path))


COMMANDS = (fetch,)
