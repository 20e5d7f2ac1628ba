"""Whether a table's promise held: errors within what it claims, and networks in its order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lut.agreement import kendall_tau

CERTAIN = 1.6449  # standard deviations that 95 % of a normal distribution are below: 90 % within
CHANCE = 0.05  # with which a true promise may be called broken, by each test
SPREAD = math.sqrt(math.pi / 2 - 1)  # of |error|, relative to its mean, of a normal distribution


@dataclass(frozen=True)
class Point:
    """A network that was measured, in ms per image."""

    predicted_ms: float
    std_ms: float  # of the prediction, as the table claims
    measured_ms: float

    @property
    def error(self) -> float:
        """Return the prediction's relative error, as sidecars count it."""
        return self.predicted_ms / self.measured_ms - 1

    @property
    def is_within(self) -> bool:
        """Tell whether it took what is in the 90 % interval of the prediction."""
        return abs(self.measured_ms - self.predicted_ms) <= CERTAIN * self.std_ms


@dataclass(frozen=True)
class Promise:
    """What a table claims of networks, and what was measured."""

    num_networks: int
    mean_percent: float  # absolute error
    worst_percent: float
    claimed_percent: float | None  # mean absolute error; None: the table claims none
    allowed_percent: float | None  # as claimed, and what chance adds with so few networks
    within: int  # networks within their 90 % intervals
    least_within: int  # of them that chance leaves there
    kendall_tau: float | None  # None: too few networks for an order
    pairs: int  # of networks that the predictions tell apart with 95 % certainty
    ordered: int  # of these, measured in that order

    @property
    def error_holds(self) -> bool:
        """Tell whether errors are as claimed; without a claim there is nothing to break."""
        if self.allowed_percent is None:
            return True
        return self.mean_percent <= self.allowed_percent and self.within >= self.least_within

    @property
    def order_holds(self) -> bool:
        """Tell whether 95 % of the pairs that are told apart are in order."""
        return self.ordered >= (1 - CHANCE) * self.pairs

    @property
    def holds(self) -> bool:
        """Tell whether both hold."""
        return self.error_holds and self.order_holds


def judge(
    points: Sequence[Point], claimed_percent: float | None, relative_std: float | None
) -> Promise:
    """Hold measured networks against what their table claims. Raises ValueError without any.

    Args:
        claimed_percent: the table's mean absolute error.
        relative_std: standard deviation of the table's errors; where a prediction's own is larger,
            as of networks unlike those that the table was checked on, the claim is as much wider.
    """
    if not points:
        raise ValueError("no network was measured")
    errors = [abs(point.error) for point in points]
    claimed = allowed = None
    if claimed_percent is not None and relative_std:
        widths = [own.std_ms / own.predicted_ms / relative_std for own in points]
        claimed = claimed_percent * sum(widths) / len(widths)
        allowed = claimed * (1 + CERTAIN * SPREAD / math.sqrt(len(points)))
    pairs, ordered = _pairs(points)
    predicted, measured = [p.predicted_ms for p in points], [p.measured_ms for p in points]
    return Promise(
        num_networks=len(points),
        mean_percent=100 * sum(errors) / len(errors),
        worst_percent=100 * max(errors),
        claimed_percent=claimed,
        allowed_percent=allowed,
        within=sum(point.is_within for point in points),
        least_within=least_within(len(points)),
        kendall_tau=kendall_tau(predicted, measured) if len(points) > 1 else None,
        pairs=pairs,
        ordered=ordered,
    )


def least_within(count: int) -> int:
    """Return how many of `count` fall within their 90 % intervals but by a chance of 5 %."""
    from scipy.stats import binom

    return int(binom.ppf(CHANCE, count, 0.9))


def _pairs(points: Sequence[Point]) -> tuple[int, int]:
    """Return how many pairs the predictions tell apart, and how many are measured in order."""
    ordered = sorted(points, key=lambda point: point.predicted_ms)
    apart = right = 0
    for place, slower in enumerate(ordered):
        for faster in ordered[:place]:
            std_ms = math.hypot(slower.std_ms, faster.std_ms)
            if slower.predicted_ms - faster.predicted_ms > CERTAIN * std_ms:
                apart += 1
                right += slower.measured_ms > faster.measured_ms
    return apart, right


def non_dominated(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Tell of each network whether no other is nowhere worse and somewhere better.

    >>> non_dominated([(1, 9), (2, 5), (2, 6), (3, 5)])
    [True, True, False, False]
    """
    every = np.array(costs, float)
    return [
        not bool(np.any(np.all(every <= own, axis=1) & np.any(every < own, axis=1)))
        for own in every
    ]
