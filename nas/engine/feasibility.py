"""Whether any Arch of a space keeps to the budgets, found out before a search begins."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from nas.engine.numbers import Genes
from nas.objectives.budgets import Budget
from predictors.worth import Array
from results.errors import SearchError
from supernet.arch import Arch, format_resolution
from supernet.space import Space


def starting_points(
    space: Space,
    numbers: Callable[[Genes], Any],
    limits: Sequence[Budget],
    known_archs: Sequence[Arch] = (),
) -> list[Arch]:
    """Return the fastest Arch, the best by each budget, and one near to keeping all of them.

    Each is a local minimum, found by steepest descent over the space's neighbours from the
    smallest choices and from the best of `known_archs`, which are in the space: nearly always
    the least there is, as every dimension's cost rises with it.

    Args:
        numbers: gives the numbers of networks, see `nas.engine.numbers.Numbers`.

    Raises SearchError where none keeps to a budget, with the least there is.
    """
    known = np.array([space.encode(arch) for arch in known_archs], dtype=np.intp)
    around = _Neighbours(space)

    def least(value: Callable[[Any], Array], starts: Iterable[Arch]) -> Arch:
        def costs(genes: Genes) -> Array:
            found = value(numbers(genes))
            return np.where(np.isnan(found), np.inf, found)  # an energy that the table lacks

        begin = np.array([space.encode(arch) for arch in starts], dtype=np.intp)
        if len(known):
            begin = np.concatenate([begin, known[[int(np.argmin(costs(known)))]]])
        found = np.stack([descend(genes, costs, around) for genes in begin])
        return space.decode(found[int(np.argmin(costs(found)))].tolist())

    extremes = list(space.extremes())
    points = [least(lambda numbers: numbers.latency_ms, extremes[::2])]
    for limit in limits:
        arch = least(limit.cost, extremes[limit.is_least :: 2])
        value = float(limit.value(numbers(np.array([space.encode(arch)], dtype=np.intp)))[0])
        if math.isnan(value):
            raise SearchError(
                f"{limit.flag} cannot be kept to: the table lacks the {limit.measure.quantity.name}"
                f" of blocks that every network has; leave {limit.flag} out"
            )
        if limit.is_broken(value):
            raise SearchError(_impossible(space, limit, arch, value))
        points.append(arch)
    if len(limits) > 1:
        points.append(
            least(lambda n: np.maximum(0, np.max([x.excess(n) for x in limits], axis=0)), points)
        )
    return points


def _impossible(space: Space, limit: Budget, arch: Arch, value: float) -> str:
    """Say that a limit is beyond what `arch`, the best by it, has."""
    of_device = f" on {limit.measure.device}" if limit.measure.device else ""
    best = "largest" if limit.is_least else "smallest"
    return (
        f"no arch of space {space.name} keeps to {limit.flag} {limit.limit:g}{of_device}: the "
        f"{best} has {value:.4g} {limit.unit} ({arch.describe()}, resolution "
        f"{format_resolution(arch.resolution)}); try {limit.flag} "
        f"{limit.typed(_rounded(value, up=not limit.is_least))}"
    )


def descend(
    start: Genes, costs: Callable[[Genes], Array], neighbours: Callable[[Genes], Genes]
) -> Genes:
    """Return the local minimum of `costs` that steepest descent finds from `start`, (genes,)."""
    best, best_cost = start, float(costs(start[None])[0])
    while True:
        around = neighbours(best)
        if not len(around):
            return best
        found = costs(around)
        step = int(np.argmin(found))
        if found[step] >= best_cost:
            return best
        best, best_cost = around[step], float(found[step])


class _Neighbours:
    """All vectors that differ from one in a single gene, of the same part of the space."""

    def __init__(self, space: Space) -> None:
        self._choices = [
            (number, np.arange(count))
            for number, (name, count) in enumerate(space.genes.items())
            if name != "family" and count > 1
        ]

    def __call__(self, genes: Genes) -> Genes:
        found = [genes[None][:0]]
        for number, choices in self._choices:
            others = np.repeat(genes[None], len(choices) - 1, axis=0)
            others[:, number] = choices[choices != genes[number]]
            found.append(others)
        return np.concatenate(found)


def _rounded(value: float, *, up: bool) -> float:
    """Round `value` to three significant digits, up or down.

    >>> _rounded(0.39951, up=True), _rounded(1234.5, up=True), _rounded(1234.5, up=False)
    (0.4, 1240.0, 1230.0)
    """
    digits = 2 - math.floor(math.log10(value))
    shifted = value * 10.0**digits
    return float((math.ceil(shifted) if up else math.floor(shifted)) / 10.0**digits)
