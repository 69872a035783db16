"""`survey`: everything this room can say about a model directory, good or bad, in one list of findings.

Knows which checks there are and runs all that the directory allows; a check that cannot run has a finding of
its own. Does not know chat templates beyond where their text is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from checkpoint.findings import CheckpointFlaw, Finding
from checkpoint.model import Checkpoint
from checkpoint.stored_files import check_files, check_lmdeploy_path, check_templates
from checkpoint.stored_ids import check_ids, check_vocabulary
from checkpoint.stored_tensors import check_tensors
from errors import PortsideError

__all__ = ["Survey", "survey"]


@dataclass(frozen=True)
class Survey:
    """What was found. `checkpoint` is None where it could not be opened; `fatal` then says why.

    `findings` holds the fatal error as well, worst first.
    """

    path: Path
    name: str
    checkpoint: Checkpoint | None
    findings: tuple[Finding, ...]
    fatal: PortsideError | None

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")


_CHECKS: tuple[Callable[[Checkpoint], Iterable[Finding]], ...] = (
    check_files,
    check_templates,
    check_ids,
    check_vocabulary,
    check_tensors,
)
_NO_WEIGHTS = ("weights-missing", "shard-missing")
_UNSEEN = Finding(
    "weights-not-fetched",
    "info",
    "Only the config and the tokenizer were fetched: the weights were not looked at.",
    "`portside fetch` brings them; then inspect the directory.",
)
_ORDER = {"error": 0, "warning": 1, "info": 2}


def survey(path: Path, *, weights: bool = True) -> Survey:
    """Inspect the model directory `path`. Never raises for what is wrong with it: that is in the findings.

    Without `weights` they need not be there: what was not looked at is a finding of its own.
    """
    path = Path(path)
    name = path.absolute().name or str(path)
    try:
        checkpoint = Checkpoint.open(path)
    except PortsideError as error:
        return Survey(path, name, None, (_as_finding(error),), error)
    found: dict[Finding, None] = dict.fromkeys(check_lmdeploy_path(path))
    for check in _CHECKS:
        try:
            found.update(dict.fromkeys(check(checkpoint)))
        except PortsideError as error:  # the same flaw may stop several checks: the dictionary keeps it once
            found[_as_finding(error)] = None
    if not weights and any(finding.code in _NO_WEIGHTS for finding in found):
        found = {_UNSEEN: None} | {f: None for f in found if f.code not in _NO_WEIGHTS}
    findings = sorted(found, key=lambda finding: _ORDER[finding.severity])
    return Survey(path, checkpoint.name, checkpoint, tuple(findings), None)


def _as_finding(error: PortsideError) -> Finding:
    if isinstance(error, CheckpointFlaw):
        return error.as_finding()
    return Finding("unreadable", "error", error.message, error.hint or "")
