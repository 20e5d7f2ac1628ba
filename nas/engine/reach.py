"""Which networks a front is made of: those near to what is known, where that costs little.

Beyond the reach of the published figures (or of the choices that were evaluated) a prediction is a
guess, and the best predictions of a space are for a large part such guesses. A network beyond it
is admitted only where every network within it that is at least as accurate is more than `MOST`
slower; so no accuracy costs more than that beside the front of all networks.
"""

from dataclasses import dataclass

import numpy as np

from nas.engine.archive import non_dominated
from nas.options import FAR
from predictors.components import Indices
from predictors.part_rows import Marks
from predictors.worth import Array

MOST = 0.06  # of latency, that staying near may cost
ACCURACIES = 1001  # at which fronts are compared, evenly apart


@dataclass(frozen=True)
class Cost:
    """What keeping near costs beside the front of all networks, as shares of latency."""

    mean: float  # over accuracies that both reach, evenly apart
    worst: float


@dataclass(frozen=True)
class Chosen:
    """The networks of a front among others, fastest first, and what keeping near costs."""

    rows: Indices
    cost: Cost | None = None  # None: nothing kept the front near


def choose(costs: Array, near: Marks, reach: str) -> Chosen:
    """Return which networks make up the front.

    `costs` are (networks, 2): the cost that is minimised, and the negative accuracy.
    """
    whole = non_dominated(costs) if len(costs) else np.zeros(0, np.intp)
    if reach == FAR or not near.any() or near[whole].all():
        return Chosen(whole)
    cost, accuracy = costs[:, 0], -costs[:, 1]
    inside = np.flatnonzero(near)
    own = inside[non_dominated(costs[inside])]
    needed = ms_at(accuracy, cost[own], accuracy[own])
    admitted = np.flatnonzero(near | (needed > (1 + MOST) * cost))
    rows = admitted[non_dominated(costs[admitted])]
    return Chosen(rows, cost_of((cost[rows], accuracy[rows]), (cost[whole], accuracy[whole])))


def ms_at(accuracy: Array, front_ms: Array, front_accuracy: Array) -> Array:
    """Return the least latency on a front, fastest first, that reaches accuracies; else inf."""
    first = np.searchsorted(front_accuracy, accuracy)
    found: Array = np.append(front_ms, np.inf)[first]
    return found


def cost_of(front: tuple[Array, Array], whole: tuple[Array, Array]) -> Cost:
    """Return what a front costs beside another; each is latencies in ms and accuracies.

    Both fastest first.
    """
    (ms, accuracy), (whole_ms, whole_accuracy) = front, whole
    low, high = max(accuracy[0], whole_accuracy[0]), min(accuracy[-1], whole_accuracy[-1])
    levels = np.linspace(low, high, ACCURACIES)
    more = ms_at(levels, ms, accuracy) / ms_at(levels, whole_ms, whole_accuracy) - 1
    return Cost(float(more.mean()), float(more.max()))
