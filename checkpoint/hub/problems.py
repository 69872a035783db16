"""What goes wrong with a hub, in words and with what to try; and waiting as long as a hub asks for.

Both hubs' libraries have exceptions of their own: the modules that use them translate into these.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from checkpoint.hub.reference import Hub, HubReference
from errors import HubError

__all__ = [
    "Notify",
    "RateLimited",
    "Unreachable",
    "damaged",
    "gated",
    "no_revision",
    "not_found",
    "patiently",
    "refused_token",
    "rejected",
    "server_error",
    "unreachable",
]

Notify = Callable[[str], None]
"""Called with a sentence for the user."""

_T = TypeVar("_T")

_TOKEN = {
    "hf": "HF_TOKEN (https://huggingface.co/settings/tokens) or run `hf auth login`",
    "modelscope": "MODELSCOPE_API_TOKEN (https://modelscope.cn/my/myaccesstoken) or run `ms login`",
}
_MIRROR = {
    "hf": "behind a firewall set HF_ENDPOINT to a mirror, or take the model from ModelScope",
    "modelscope": "set MODELSCOPE_ENDPOINT to the site that you reach: modelscope.cn or modelscope.ai",
}
_PAGE = {"hf": "https://huggingface.co", "modelscope": "https://modelscope.cn/models"}

_LONGEST_WAIT = 300.0
"""Seconds; a hub that wants more is not waited for."""
_WAITS = 5
_DEFAULT_WAIT = 10.0
"""Seconds, where a hub does not say how long."""


class Unreachable(HubError):
    """The hub gives no answer, or has a fault: a copy that is already here may do."""


class RateLimited(HubError):
    """The hub wants fewer requests; `seconds` is what its Retry-After says."""

    def __init__(self, reference: HubReference, seconds: float | None) -> None:
        wait = f" It asks to wait {seconds:.0f} s." if seconds is not None else ""
        super().__init__(
            f"{_SITE[reference.hub]} limits the rate of requests for {reference}.{wait}",
            hint=f"Wait and run the same command again: what is here is kept. A token raises the limit: set "
            f"{_TOKEN[reference.hub]}.",
        )
        self.seconds = seconds


_SITE: dict[Hub, str] = {"hf": "The Hugging Face Hub", "modelscope": "ModelScope"}


def patiently(call: Callable[[], _T], notify: Notify) -> _T:
    """Return `call()`, again after the time that the hub asks to wait for, five times at most."""
    for _ in range(_WAITS):
        try:
            return call()
        except RateLimited as error:
            seconds = _DEFAULT_WAIT if error.seconds is None else error.seconds
            if seconds > _LONGEST_WAIT:
                raise
            notify(f"{error.message} Waiting.")
            time.sleep(seconds)
    return call()


def not_found(reference: HubReference) -> HubError:
    return HubError(
        f"{reference} does not exist, or it is private.",
        hint=f"Check the spelling at {_PAGE[reference.hub]}/{reference.repo}; for a private model set "
        f"{_TOKEN[reference.hub]}.",
    )


def no_revision(reference: HubReference) -> HubError:
    return HubError(
        f"{reference.hub}:{reference.repo} has no revision {reference.revision!r}.",
        hint="Give a branch, a tag or a commit that its page lists, or none for the newest.",
    )


def gated(reference: HubReference) -> HubError:
    return HubError(
        f"{reference} is gated: its authors want their licence accepted first.",
        hint=f"Accept it at {_PAGE[reference.hub]}/{reference.repo}, then set {_TOKEN[reference.hub]}.",
    )


def refused_token(reference: HubReference) -> HubError:
    return HubError(
        f"{_SITE[reference.hub]} does not accept the credentials for {reference} (HTTP 401).",
        hint=f"Set {_TOKEN[reference.hub]}; a token may be misspelt, expired, or without the right to read.",
    )


def server_error(reference: HubReference, status: int) -> HubError:
    return Unreachable(
        f"{_SITE[reference.hub]} answers HTTP {status} for {reference}.",
        hint="Try again later: what is here is kept, and the download goes on where it stopped.",
    )


def unreachable(reference: HubReference, endpoint: str, reason: object) -> Unreachable:
    return Unreachable(
        f"{_SITE[reference.hub]} cannot be reached at {endpoint}: {reason}.",
        hint=f"Check the network (HTTPS_PROXY is obeyed); {_MIRROR[reference.hub]}. What has "
        "arrived is kept: the same command goes on where it stopped.",
    )


def damaged(reference: HubReference, name: str, reason: str) -> HubError:
    return HubError(
        f"{name} of {reference} arrived damaged each time and was removed: {reason}.",
        hint="A proxy or mirror in between changes it, or has another version: try another endpoint.",
    )


def rejected(reference: HubReference, reason: object) -> HubError:
    return HubError(f"{reference} cannot be fetched: {reason}.", hint="Try again later.")
