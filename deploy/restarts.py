"""`Restarts`: when an engine that died is started again, and when that is given up.

Knows delays and counts. Does not know processes, nor how the engine is started.
"""

from __future__ import annotations

from dataclasses import dataclass

from errors import EngineFailed

__all__ = ["Restarts"]


@dataclass
class Restarts:
    """Delays of 0, `step`, 2 `step` … `longest` seconds; a run of `stable` seconds begins the count anew.

    `attempts`: how many runs in a row may end sooner than that before the engine is given up.
    """

    step: float = 10.0
    longest: float = 300.0
    stable: float = 60.0
    attempts: int = 5
    failures: int = 0

    def delay(self, error: EngineFailed, served: float) -> float:
        """Return the seconds to wait after `error`, which ended a run that served for `served` seconds.

        Raises `EngineFailed` when too many runs in a row were short.
        """
        self.failures = 1 if served >= self.stable else self.failures + 1
        if self.failures > self.attempts:
            raise EngineFailed(
                f"The engine was given up after {self.attempts} restarts: no run served for "
                f"{self.stable:g} s. {error.message}",
                hint=error.hint,
            ) from error
        return min(self.longest, self.step * (self.failures - 1))
