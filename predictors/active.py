"""Which networks to evaluate next: those that the Pareto front is expected to gain most from.

The gain is expected hypervolume improvement, exact, as costs are known and values are normal. What
is reached at a cost is a staircase h(c); a network of cost c and value Y adds the integral from c
to the reference cost of max(0, Y - h), so the expectation is a sum over steps of their widths times
E max(0, Y - h) = (m - h) Phi(z) + s phi(z), z = (m - h) / s.

A batch is chosen one after the other; each counts as evaluated, at its mean, for those after it.

Sources: Emmerich, Deutz, Klinkenberg: Hypervolume-based expected improvement, CEC 2011;
Ginsbourger, Le Riche, Carraro: Kriging is well-suited to parallelize optimization (the kriging
believer), 2010.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.worth import Array

BEYOND = 0.1  # of the front's range, by which the reference is worse than the worst
LEAST_STD = 1e-12
TOGETHER = 64  # gains that are brought up to date at a time


@dataclass(frozen=True)
class Points:
    """Networks, with what they cost (less is better) and reach (more is better), each (n,)."""

    costs: Array
    values: Array

    def with_one(self, cost: float, value: float) -> "Points":
        """Return the same and one more."""
        return Points(np.append(self.costs, cost), np.append(self.values, value))

    def with_all(self, others: "Points") -> "Points":
        """Return these and others."""
        costs = np.concatenate((self.costs, others.costs))
        return Points(costs, np.concatenate((self.values, others.values)))


@dataclass(frozen=True)
class Reference:
    """What is worth nothing: points that cost as much, or reach as little, do not count."""

    cost: float
    value: float


def on_front(points: Points) -> NDArray[np.intp]:
    """Return the indices of the points that no other beats, cheapest first, one of equal ones."""
    order = np.lexsort((-points.values, points.costs))
    if not len(order):
        return order
    best = np.maximum.accumulate(points.values[order])
    return order[np.concatenate(([True], best[1:] > best[:-1]))]


def hypervolume(points: Points, reference: Reference) -> float:
    """Return the area between the front of the points and the reference."""
    edges, heights = _staircase(points, reference)
    return float(np.diff(edges)[1:] @ (heights[1:] - reference.value))


def reference_of(points: Points) -> Reference:
    """Return a reference a little worse than the worst of the front, and than the dearest point."""
    front = on_front(points)
    costs, values = points.costs, points.values[front]
    return Reference(
        float(costs.max() + BEYOND * np.ptp(costs)),
        float(values.min() - BEYOND * np.ptp(values)),
    )


def expected_gains(
    candidates: Points, stds: Array, evaluated: Points, reference: Reference
) -> Array:
    """Return by how much each candidate is expected to raise the hypervolume, (candidates,).

    Args:
        candidates: costs, and the means of what is reached.
        stds: standard deviations of what is reached, from 0.
        evaluated: what is reached already; may be empty.
    """
    edges, heights = _staircase(evaluated, reference)
    begins = np.maximum(edges[:-1], candidates.costs[:, None])
    widths = np.maximum(edges[1:] - begins, 0.0)
    gains: Array = (widths * _excess(candidates.values, stds, heights)).sum(axis=1)
    return gains


def choose(
    candidates: Points,
    stds: Array,
    evaluated: Points,
    count: int,
    reference: Reference | None = None,
) -> list[int]:
    """Return indices of `count` candidates to evaluate, the most valuable first.

    Args:
        candidates: costs, and the means of what is expected.
        stds: standard deviations of what is expected, from 0.
        evaluated: what is reached already; may be empty.
        count: at most the number of candidates.
        reference: by default that of candidates and evaluated points.

    Where nothing is expected to gain anything, the one that falls short by the fewest standard
    deviations is next.
    """
    reference = reference or reference_of(candidates.with_all(evaluated))
    chosen: list[int] = []
    bounds = expected_gains(candidates, stds, evaluated, reference)
    dated = np.zeros(len(bounds), dtype=np.intp)  # how many had been chosen when a bound was exact
    while len(chosen) < count:
        best = int(bounds.argmax())
        if dated[best] < len(chosen):  # a front that grew leaves less to gain, never more
            top = np.argsort(-bounds, kind="stable")[:TOGETHER]  # begins with `best`, as argmax
            some = top[(dated[top] < len(chosen)) & (bounds[top] > -np.inf)]
            bounds[some] = expected_gains(_take(candidates, some), stds[some], evaluated, reference)
            dated[some] = len(chosen)
            continue
        if bounds[best] <= 0.0:
            shortfalls = _shortfalls(candidates, stds, evaluated, reference)
            best = int(np.where(bounds > -np.inf, shortfalls, np.inf).argmin())
        chosen.append(best)
        bounds[best] = -np.inf
        evaluated = evaluated.with_one(candidates.costs[best], candidates.values[best])
    return chosen


def _staircase(points: Points, reference: Reference) -> tuple[Array, Array]:
    """Return edges (steps + 1,) and heights (steps,) of what is reached at a cost.

    The first step reaches from minus infinity to the cheapest point, as high as the reference.
    """
    counts = (points.costs < reference.cost) & (points.values > reference.value)
    counted = Points(points.costs[counts], points.values[counts])
    front = on_front(counted)
    edges = np.concatenate(([-np.inf], counted.costs[front], [reference.cost]))
    return edges, np.concatenate(([reference.value], counted.values[front]))


def _excess(means: Array, stds: Array, heights: Array) -> Array:
    """Return E max(0, Y - height) of normal Y, (values, heights)."""
    from scipy.special import ndtr

    stds = np.maximum(stds, LEAST_STD)[:, None]
    above = means[:, None] - heights
    z = above / stds
    density = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
    expected: Array = np.maximum(above * ndtr(z) + stds * density, 0.0)
    return expected


def _shortfalls(candidates: Points, stds: Array, evaluated: Points, reference: Reference) -> Array:
    """Return by how many standard deviations candidates are below what their costs reach."""
    edges, heights = _staircase(evaluated, reference)
    step = np.searchsorted(edges[1:-1], candidates.costs, side="right")
    return (heights[step] - candidates.values) / np.maximum(stds, LEAST_STD)


def _take(points: Points, rows: Sequence[int] | NDArray[np.intp]) -> Points:
    return Points(points.costs[rows], points.values[rows])
