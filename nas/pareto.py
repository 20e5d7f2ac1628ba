"""Which candidates of a front are best: within what another costs, and for several devices."""

import math
from collections.abc import Iterable, Mapping, Sequence

from nas.front import Candidate, Front
from nas.objectives.objective import LATENCY, Objective

LEAST = 1e-9  # of a cost, whose logarithm is taken


def best_within(
    front: Iterable[Candidate], other: Candidate, costs: Sequence[Objective]
) -> Candidate | None:
    """Return the most accurate candidate that costs no more than `other`; None if none is."""
    inside = (c for c in front if all(cost.value(c) <= cost.value(other) for cost in costs))
    return max(inside, key=lambda candidate: candidate.accuracy, default=None)


def place_of(front: Front, candidate: Candidate) -> float:
    """Return where a candidate lies on the axis that rows are spread over."""
    costs = front.costs[:1]
    if front.devices:
        costs = tuple(cost for cost in front.costs if cost.quantity is LATENCY)
    logs = [math.log(max(cost.value(candidate), LEAST)) for cost in costs]
    return sum(logs) / len(logs)


def least_in_each(places: Mapping[int, float], losses: Mapping[int, float], most: int) -> list[int]:
    """Return of `most` equal ranges of places the key that loses least, in order of their places.

    >>> least_in_each({1: 0.0, 2: 0.4, 3: 0.6, 4: 1.0}, {1: 0.1, 2: 0.0, 3: 0.3, 4: 0.2}, 2)
    [2, 4]
    """
    low, high = min(places.values()), max(places.values())
    chosen: dict[int, int] = {}
    for key, place in places.items():
        part = min(most - 1, int(most * (place - low) / (high - low))) if high > low else 0
        if part not in chosen or losses[key] < losses[chosen[part]]:
            chosen[part] = key
    return [chosen[part] for part in sorted(chosen)]


def best_shared(front: Front, most: int) -> list[Candidate]:
    """Return of a front of several devices at most so many networks whose worst loss is least."""
    own = front.by_id
    places = {number: place_of(front, candidate) for number, candidate in own.items()}
    losses = {number: max(candidate.losses) for number, candidate in own.items()}
    return [own[number] for number in least_in_each(places, losses, most)]
