"""What each archive of a search is of: which objectives, and which networks it may hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nas.engine.archive import Judged
from nas.engine.numbers import Numbers
from nas.objectives.budgets import Budget, is_latency
from nas.objectives.objective import LATENCY, Objective
from predictors.part_rows import Marks
from predictors.worth import Array


@dataclass(frozen=True)
class View:
    """Networks as one archive sees them."""

    costs_of: Callable[[Numbers], Sequence[Array]]
    num_objectives: int
    limits: Sequence[Budget]
    near_only: bool = False  # networks within reach of what is known

    def judge(self, numbers: Numbers) -> Judged:
        """Return costs of networks, and which are admitted."""
        costs = np.stack(list(self.costs_of(numbers)), axis=1)
        return Judged(costs, self.admits(numbers) & np.all(np.isfinite(costs), axis=1))

    def admits(self, numbers: Numbers) -> Marks:
        """Return which networks keep to the limits and, where asked for, are near."""
        kept = np.ones(len(numbers.batch), np.bool_)
        for limit in self.limits:
            kept &= limit.excess(numbers) <= 0  # false where a number is NaN
        return kept & ~numbers.accuracy_extrapolated if self.near_only else kept


def of_objectives(
    objectives: Sequence[Objective], limits: Sequence[Budget], *, near_only: bool
) -> View:
    """Return the view of some objectives."""

    def costs_of(numbers: Numbers) -> list[Array]:
        return [objective.cost(numbers) for objective in objectives]

    return View(costs_of, len(objectives), limits, near_only)


def of_each_cost(
    objectives: Sequence[Objective], limits: Sequence[Budget], *, near_only: bool
) -> list[View]:
    """Return the views of each cost with accuracy alone.

    That of a device's latency is not held to other devices' budgets: it is what the device could
    have if no other had to run the network.
    """
    *costs, accuracy = objectives
    views = []
    for cost in costs:
        own = [limit for limit in limits if not is_latency(limit) or _is_of(limit, cost)]
        views.append(of_objectives((cost, accuracy), own, near_only=near_only))
    return views


def _is_of(limit: Budget, cost: Objective) -> bool:
    return cost.quantity is not LATENCY or limit.measure.place == cost.place
