"""What several devices lose by running the same network, beside what each could have alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.engine.numbers import Numbers
from nas.engine.reach import ACCURACIES, ms_at
from nas.engine.views import View
from nas.objectives.budgets import Budget
from nas.objectives.objective import Objective
from predictors.worth import Array

BELOW = (0.0, 0.1, 0.3)  # points below a network's accuracy, where it is held against own fronts


@dataclass(frozen=True)
class Sharing:
    """What sharing costs, over accuracies evenly apart that all devices reach.

    At each accuracy the shared network is that of the least worst-device regret: of the share of
    latency by which it is slower than the device's own fastest network as accurate.
    """

    mean: float
    worst: float
    taken_over: dict[str, dict[str, float]]  # mean loss on a device (second) of another's networks


@dataclass(frozen=True)
class OwnFronts:
    """What each of several devices could have alone."""

    objectives: Sequence[Objective]  # a latency of each device, accuracy last
    fronts: Sequence[Numbers]  # by device, with the latencies on all of them, the fastest first

    def own_ms(self, place: int, accuracy: Array) -> Array:
        """Return the latency of a device's own fastest networks that are as accurate, in ms.

        Where none is, that of its most accurate one.
        """
        ms, reached = self._front(place)
        return ms_at(np.minimum(accuracy, reached[-1]), ms, reached)

    def losses(self, numbers: Numbers) -> Array:
        """Return what each device loses by running networks, (devices, networks)."""
        accuracy = self.objectives[-1].value(numbers)
        latencies = enumerate(self.objectives[:-1])
        return np.array([own.value(numbers) / self.own_ms(d, accuracy) - 1 for d, own in latencies])

    def shared_cost(self, numbers: Numbers, below: float = 0.0) -> Array:
        """Return the loss of the device that loses most, in ms of the first device, (networks,).

        Beside what each device could have alone at accuracies that are lower by `below` points.
        """
        accuracy = self.objectives[-1].value(numbers) - below
        own_ms = np.array([self.own_ms(place, accuracy) for place in range(len(self.fronts))])
        ms = np.array([latency.value(numbers) for latency in self.objectives[:-1]])
        cost: Array = own_ms[0] * (ms / own_ms).max(axis=0)
        return cost

    def views(self, limits: Sequence[Budget], *, near_only: bool) -> tuple[View, ...]:
        """Return the views of what sharing costs the worst device, and accuracy.

        A network serves all lower accuracies too. Where a device's own front has a step, what
        costs least above it and what does below are not the same, so each is looked for.
        """

        def view(below: float) -> View:
            def costs_of(numbers: Numbers) -> list[Array]:
                return [self.shared_cost(numbers, below), self.objectives[-1].cost(numbers)]

            return View(costs_of, 2, limits, near_only)

        return tuple(map(view, BELOW))

    def sharing(self, front: Numbers) -> Sharing:
        """Return what sharing the networks of a front costs."""
        accuracy = self.objectives[-1].value(front)
        reached = [self._front(place)[1] for place in range(len(self.fronts))]
        low = max(accuracy.min(), *(own[0] for own in reached))
        high = min(accuracy.max(), *(own[-1] for own in reached))
        levels = np.linspace(low, high, ACCURACIES)
        regrets = self.regrets(front, levels)
        names = [latency.device for latency in self.objectives[:-1]]
        taken_over = {
            name: {
                other: self._loss_of_taking_over(place, there, levels)
                for there, other in enumerate(names)
                if there != place
            }
            for place, name in enumerate(names)
        }
        return Sharing(float(regrets.mean()), float(regrets.max()), taken_over)

    def regrets(self, front: Numbers, levels: Array) -> Array:
        """Return the least worst-device regret of networks at least as accurate, (levels,)."""
        accuracy = self.objectives[-1].value(front)
        own_ms = np.array([self.own_ms(place, levels) for place in range(len(self.fronts))])
        ms = np.array([latency.value(front) for latency in self.objectives[:-1]])
        found = np.empty(len(levels))
        for number, level in enumerate(levels):
            ratios = ms[:, accuracy >= level] / own_ms[:, number, None]
            found[number] = ratios.max(axis=0).min() - 1
        return found

    def _front(self, place: int) -> tuple[Array, Array]:
        """Return latencies and accuracies of a device's own front, the fastest first."""
        front = self.fronts[place]
        ms, accuracy = self.objectives[place].value(front), self.objectives[-1].value(front)
        return ms, np.maximum.accumulate(accuracy)  # where written numbers have become equal

    def _loss_of_taking_over(self, place: int, there: int, levels: Array) -> float:
        """Return the mean loss on one device of networks that are another's own best."""
        _, accuracy = self._front(place)
        rows = np.minimum(np.searchsorted(accuracy, levels), len(accuracy) - 1)
        ms = self.objectives[there].value(self.fronts[place])[rows]
        return float((ms / self.own_ms(there, levels)).mean() - 1)
