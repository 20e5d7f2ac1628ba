"""The published accuracy as a function of few sums over a network, and bounds of these."""

import math
from dataclasses import dataclass

import numpy as np

from predictors.accuracy import NEGLIGIBLE, Prior
from predictors.components import PartComponents
from predictors.shape import Numbers
from predictors.size import worth_of
from predictors.worth import SHARE, Array
from supernet.arch import Family

LEAST_LOG_SIZE, MOST_LOG_SIZE = -30.0, 60.0  # of GMACs times the root of the number of blocks


@dataclass(frozen=True)
class Score:
    """`Prior` of the networks of one part.

    size' = exp(constant) macs^of_total blocks^0.5 exp(spread)
    accuracy = 100 - (100 - law(size')) exp(loss)

    It rises with macs, blocks and spread, and falls with loss.
    """

    prior: Prior
    family: Family
    of_total: float
    of_strides: Array  # (5,), on the logarithm of MACs at each stride: their sum is `spread`
    constant: float

    @classmethod
    def of(cls, prior: Prior, part: PartComponents) -> "Score":
        """Take the weights of a part's family."""
        family = part.part.family
        worth = worth_of(family, len(part.places), prior.law.task)
        weights = SHARE * np.array(worth.weights)
        return cls(
            prior,
            family,
            1.0 - float(weights @ np.array(worth.reference.beta)),
            np.array([0.0, *weights]),
            -float(weights @ np.array(worth.reference.alpha)) - math.log(1e9),
        )

    @property
    def is_monotone(self) -> bool:
        """Tell whether the accuracy rises and falls as it must for bounds to hold."""
        law = self.prior.law
        rises = self.of_total >= 0 and bool(np.all(self.of_strides >= 0))
        return rises and law.scale >= 0 and law.exponent > 0

    def accuracy(self, macs: Array, blocks: Array, spread: Array, loss: Array) -> Array:
        """Return accuracies, in points."""
        log_size = self.log_size(macs, blocks, spread)
        accuracy: Array = np.maximum(100.0 - self._error(log_size, loss), NEGLIGIBLE)
        return accuracy

    def log_size(self, macs: Numbers, blocks: Numbers, spread: Numbers) -> Numbers:
        """Return the logarithm of size'."""
        return self.constant + self.of_total * np.log(macs) + 0.5 * np.log(blocks) + spread

    def log_sizes(self, accuracy: Array, losses: Array, most: float) -> Array:
        """Return the least logarithm of size' that reaches accuracies, (accuracies, losses).

        Infinite where none up to `most` does. A little less than exact.
        """
        low = np.full((len(accuracy), len(losses)), LEAST_LOG_SIZE)
        high = np.full_like(low, max(most, LEAST_LOG_SIZE) + 1e-9)
        error = 100.0 - accuracy[:, None]
        reached = self._error(high, losses) <= error
        while high[0, 0] - low[0, 0] > 1e-11:
            middle = (low + high) / 2
            enough = self._error(middle, losses) <= error
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return np.where(reached, low - 1e-10, np.inf)

    def most_accurate(self, least: Array, slope: Array, losses: Array) -> Array:
        """Return the most accuracy of networks whose log size - slope * loss is at most `least`."""
        slopes = np.broadcast_to(slope, least.shape)[..., None]
        errors = self._error(np.minimum(least[..., None] + slopes * losses, MOST_LOG_SIZE), losses)
        accuracy: Array = np.maximum(100.0 - errors.min(axis=-1), NEGLIGIBLE)
        return accuracy

    def _error(self, log_size: Array, loss: Array) -> Array:
        """Return 100 less the accuracy, in points."""
        error: Array = 100.0 - self.prior.law.value(np.exp(log_size), self.family)
        return error * np.exp(loss)
