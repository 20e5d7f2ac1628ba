"""What a search must keep to: upper limits on a candidate's numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.front import Candidate
from results.errors import SearchError


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit on one of a candidate's numbers."""

    flag: str  # as typed, to name it in an error
    limit: float
    unit: str
    field: str  # of a Candidate, or of many networks' Numbers

    def value(self, numbers: Any) -> Any:
        """Return what is limited: of one network, or of many."""
        return getattr(numbers, self.field)

    def excess(self, numbers: Any) -> Any:
        """Return by what share the limit is broken; 0 or less where it is kept to."""
        return self.value(numbers) / self.limit - 1


# By the flag that sets the limit.
BUDGETS = {
    "--max-latency-ms": ("ms", "latency_ms"),
    "--max-params-m": ("M", "params_m"),
    "--max-macs-g": ("G", "macs_g"),
    "--max-memory-mb": ("MB", "memory_mb"),
    "--max-accuracy-std": ("points", "accuracy_std"),
}


def budgets(limits: Mapping[str, float | None]) -> tuple[Budget, ...]:
    """Return the limits that are set, of those by flag.

    Raises SearchError for one that is not positive.
    """
    kept = []
    for flag, limit in limits.items():
        if limit is None:
            continue
        if not 0 < limit < math.inf:
            raise SearchError(f"{flag} must be a positive number, not {limit:g}")
        kept.append(Budget(flag, limit, *BUDGETS[flag]))
    return tuple(kept)


def feasible(candidate: Candidate, limits: tuple[Budget, ...]) -> bool:
    """Tell whether a candidate keeps to all limits."""
    return all(limit.excess(candidate) <= 0 for limit in limits)
