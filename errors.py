"""Every failure a user can meet, with the exit code that scripts rely on.

    PortsideError                    1
    ├── CheckFailed                  1    a health rung or a proof failed
    ├── UsageError                   2    the command line asks for something that does not exist
    ├── BadInput                     3    what was given cannot be used
    │   ├── CheckpointError          3    the model directory
    │   ├── TemplateError            3    a chat template or its source
    │   ├── ConversionError          3    weights or vocabulary that cannot become a GGUF
    │   ├── HubError                 3    a hub that refuses, does not have it, or cannot be reached
    │   └── OutputError              3    the output cannot be written (disk full, not a directory, exists)
    ├── EngineMissing                4    an engine or an optional package is not installed
    ├── EngineFailed                 5    an engine was started and died, or never became ready
    └── Interrupted                130    Ctrl-C or SIGTERM

A message is one paragraph: what is wrong, where, and (as `hint`) what to try.
"""

from __future__ import annotations

__all__ = [
    "BadInput",
    "CheckFailed",
    "CheckpointError",
    "ConversionError",
    "EngineFailed",
    "EngineMissing",
    "HubError",
    "Interrupted",
    "OutputError",
    "PortsideError",
    "TemplateError",
    "UsageError",
]


class PortsideError(Exception):
    """Base of all failures that are the user's business rather than a bug."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class CheckFailed(PortsideError):
    """A check ran to its end and the answer is no."""


class UsageError(PortsideError):
    """The command line names something that does not exist."""

    exit_code = 2


class BadInput(PortsideError):
    """Something that was given to Portside cannot be used."""

    exit_code = 3


class CheckpointError(BadInput):
    """The model directory is incomplete, corrupt or of a kind that is not supported."""


class TemplateError(BadInput):
    """A chat template, or the source named with --template, cannot be used."""


class ConversionError(BadInput):
    """Weights or vocabulary that cannot become a GGUF file."""


class HubError(BadInput):
    """A hub refuses a repository, does not have it, sends something else, or cannot be reached."""


class OutputError(BadInput):
    """The output cannot be written where it was asked for."""


class EngineMissing(PortsideError):
    """An engine, or a package that a verb needs, is not installed."""

    exit_code = 4


class EngineFailed(PortsideError):
    """An engine was started and died, or never became ready."""

    exit_code = 5


class Interrupted(PortsideError):
    """The user, or the system, asked the work to stop."""

    exit_code = 130

    def __init__(self, message: str = "Interrupted.", *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
