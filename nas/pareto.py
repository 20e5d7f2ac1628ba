"""Which candidate of a front is best within what another costs."""

from collections.abc import Iterable, Sequence

from nas.front import Candidate
from nas.objectives.objective import Objective


def best_within(
    front: Iterable[Candidate], other: Candidate, costs: Sequence[Objective]
) -> Candidate | None:
    """Return the most accurate candidate that costs no more than `other`; None if none is."""
    inside = (c for c in front if all(cost.value(c) <= cost.value(other) for cost in costs))
    return max(inside, key=lambda candidate: candidate.accuracy, default=None)
