"""A slow, obvious twin of what the search does: fronts by comparing all with all."""

from collections.abc import Iterable, Sequence

from nas.front import Candidate
from nas.objectives.objective import DEFAULT, Objective


def beats(a: Sequence[float], b: Sequence[float]) -> bool:
    """Tell whether costs are nowhere more than others, and somewhere less."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def best(costs: Iterable[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Return the distinct costs that none beats, in order."""
    every = sorted(set(costs))
    return [own for own in every if not any(beats(other, own) for other in every)]


def pareto_front(
    candidates: Iterable[Candidate], objectives: Sequence[Objective] = DEFAULT
) -> list[Candidate]:
    """Return one candidate for each of the best costs, the least first cost first."""
    by_costs: dict[tuple[float, ...], Candidate] = {}
    for candidate in candidates:
        by_costs.setdefault(tuple(own.cost(candidate) for own in objectives), candidate)
    return [by_costs[costs] for costs in best(by_costs)]
