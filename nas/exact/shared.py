"""The least that two devices lose by running the same network, over all networks of a space.

    found = least_regrets(ExactProblem(space, components, first, prior, other=second), known, ...)

At an accuracy, a network's regret is by how much it is slower than each device's own fastest
network as accurate, as a share, on the device where that is more. Networks of less regret than one
that is known are fast enough on both devices and accurate enough: conditions as those of a front
(`nas.exact.prove`), with a latency on the second device that must not be passed (`duals` weighs
both), and all networks that meet them are gone through. So nothing is left to a bound.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.exact.bands import Bands
from nas.exact.incumbent import SAME_POINTS
from nas.exact.problem import ExactProblem
from nas.exact.search import Budget, PartSearch
from nas.exact.stages import Context
from predictors.batch import Batch
from predictors.components import Indices
from predictors.part_rows import Marks
from predictors.worth import Array

AT_ONCE = 50  # levels that are searched together, for memory


@dataclass(frozen=True)
class Levels:
    """Accuracies at which networks for two devices are compared, and what is known there."""

    accuracy: Array  # (levels,) in points
    own_ms: Array  # (2, levels) of each device's own fastest network that is as accurate
    regrets: Array  # (levels,) of the best network known for both; inf: none is known

    @property
    def most_ms(self) -> Array:
        """Return the latencies that networks of no more regret keep to, (2, levels)."""
        most: Array = (1 + self.regrets) * self.own_ms
        return most


@dataclass(frozen=True)
class LeastRegrets:
    """The least regrets there are."""

    regrets: Array  # (levels,)
    is_decided: Marks  # (levels,) false: there may be networks of less regret
    states: int  # networks that were judged, and as much work on bounds


def least_regrets(problem: ExactProblem, levels: Levels, *, most_states: int) -> LeastRegrets:
    """Find the least worst-device regret of all networks of a space.

    Args:
        problem: has a second device; its limits hold for all networks.
        most_states: networks that may be judged, in all and at one level of one context.

    Raises TableError where a table has no latency for a network, ValueError where nothing can be
    proven.
    """
    if why := problem.unprovable:
        raise ValueError(why)
    known, budget = _Better(problem, levels), Budget(most_states)
    bands = known.bands
    is_decided = np.ones(len(bands), dtype=np.bool_)
    for number, part in enumerate(problem.components.parts):
        search = PartSearch(problem, number, bands, known, budget)
        for context in Context.all_of(part):
            for chosen in np.array_split(bands.all, math.ceil(len(bands) / AT_ONCE)):
                is_decided[search.run(context, chosen, most_states).bands] = False
    return LeastRegrets(known.regrets, is_decided, budget.spent)


class _Better:
    """The least regrets known, from all networks that are better than those given."""

    def __init__(self, problem: ExactProblem, levels: Levels) -> None:
        self.problem, self.levels = problem, levels
        self.regrets = levels.regrets.copy()

    @property
    def bands(self) -> Bands:
        """Return what better networks must be at each level, a band of one step."""
        first_ms, other_ms = self.levels.most_ms
        needed = self.levels.accuracy - 2 * SAME_POINTS
        return Bands(np.zeros((len(needed), 1)), first_ms[:, None], needed[:, None], other_ms)

    def better(self, bands: Indices, ms: Array, accuracy: Array) -> Indices:
        """Return the networks that are accurate enough; only those that are fast come here."""
        return np.flatnonzero(accuracy >= self.levels.accuracy[bands] - 2 * SAME_POINTS)

    def first(self, ms: Array, accuracy: Array) -> Indices:
        """Return all."""
        return np.arange(len(ms))

    def add(self, ms: Array, accuracy: Array, genes: NDArray[np.integer]) -> None:
        """Take in networks: lower the regrets at all levels that they reach."""
        problem, levels = self.problem, self.levels
        assert problem.other is not None
        other_ms, _, _ = problem.other.judge(Batch(problem.space, genes, problem.components))
        for level, needed in enumerate(levels.accuracy):
            good = accuracy >= needed
            first, second = (
                ms[good] / levels.own_ms[0, level],
                other_ms[good] / levels.own_ms[1, level],
            )
            least = np.maximum(first, second).min(initial=np.inf) - 1
            self.regrets[level] = min(self.regrets[level], least)
