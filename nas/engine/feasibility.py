"""Whether any Arch of a space keeps to the budgets, found out before a search begins."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from nas.front import Candidate
from nas.objectives.budgets import Budget
from results.errors import SearchError
from supernet.arch import Arch, format_resolution
from supernet.space import Space

T = TypeVar("T")


def starting_points(
    space: Space,
    evaluate: Callable[[Arch], Candidate],
    limits: Sequence[Budget],
    known_archs: Sequence[Arch] = (),
) -> list[Arch]:
    """Return the fastest Arch, the smallest by each budget, and one near to keeping all of them.

    Each is a local minimum, found by steepest descent over the space's neighbours from the
    smallest choices and from the best of `known_archs`, which are in the space: nearly always
    the least there is, as every dimension's cost rises with it.

    Raises SearchError where none keeps to a budget, with the least there is.
    """
    known: dict[Arch, Candidate] = {}

    def look_up(arch: Arch) -> Candidate:
        if arch not in known:
            known[arch] = evaluate(arch)
        return known[arch]

    def least(value: Callable[[Candidate], float], starts: Iterable[Arch]) -> Arch:
        def cost(arch: Arch) -> float:
            return value(look_up(arch))

        begin = dict.fromkeys([*starts, *sorted(known_archs, key=cost)[:1]])
        return min((descend(start, cost, space.neighbours) for start in begin), key=cost)

    smallest = list(space.extremes())[::2]
    points = [least(lambda c: c.latency_ms, smallest)]
    for limit in limits:
        arch = least(limit.value, smallest)
        value = limit.value(look_up(arch))
        if value > limit.limit:
            raise SearchError(
                f"no arch of space {space.name} keeps to {limit.flag} {limit.limit:g}: the "
                f"smallest has {value:.4g} {limit.unit} ({arch.describe()}, resolution "
                f"{format_resolution(arch.resolution)}); try {limit.flag} {_rounded_up(value):g}"
            )
        points.append(arch)
    if len(limits) > 1:
        points.append(least(lambda c: max(0.0, *(x.excess(c) for x in limits)), points))
    return points


def descend(start: T, cost: Callable[[T], float], neighbours: Callable[[T], Iterable[T]]) -> T:
    """Return the local minimum of `cost` that steepest descent finds from `start`."""
    best, best_cost = start, cost(start)
    while True:
        step = min(neighbours(best), key=cost, default=best)
        if cost(step) >= best_cost:
            return best
        best, best_cost = step, cost(step)


def _rounded_up(value: float) -> float:
    """Round `value` up to three significant digits.

    >>> _rounded_up(0.39951), _rounded_up(1234.5)
    (0.4, 1240.0)
    """
    digits = 2 - math.floor(math.log10(value))
    return float(math.ceil(value * 10.0**digits) / 10.0**digits)
