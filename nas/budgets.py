"""What a search must keep to: upper limits on a candidate's numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from nas.front import Candidate
from results.errors import SearchError


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit on one of a candidate's numbers."""

    flag: str  # as typed, to name it in an error
    limit: float
    unit: str
    value: Callable[[Candidate], float]

    def excess(self, candidate: Candidate) -> float:
        """Positive where the limit is broken, relative to it."""
        return self.value(candidate) / self.limit - 1


# By the name of the flag that sets the limit.
BUDGETS: dict[str, tuple[str, Callable[[Candidate], float]]] = {
    "max_latency_ms": ("ms", lambda c: c.latency_ms),
    "max_params_m": ("M", lambda c: c.params_m),
    "max_macs_g": ("G", lambda c: c.macs_g),
    "max_memory_mb": ("MB", lambda c: c.memory_mb),
    "max_accuracy_std": ("points", lambda c: c.accuracy_std),
}


def budgets(flags: object) -> tuple[Budget, ...]:
    """The limits that `flags` sets. Raises SearchError for one that is not positive."""
    limits = []
    for name, (unit, value) in BUDGETS.items():
        limit = getattr(flags, name)
        flag = "--" + name.replace("_", "-")
        if limit is not None and not 0 < limit < math.inf:
            raise SearchError(f"{flag} must be a positive number, not {limit:g}")
        if limit is not None:
            limits.append(Budget(flag, limit, unit, value))
    return tuple(limits)


def feasible(candidate: Candidate, limits: tuple[Budget, ...]) -> bool:
    return all(limit.excess(candidate) <= 0 for limit in limits)
