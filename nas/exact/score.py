"""The published accuracy as a function of few sums over a network, and bounds of these."""

import math
from dataclasses import dataclass

import numpy as np

from predictors.accuracy import NEGLIGIBLE, Prior
from predictors.components import PartComponents
from predictors.size import worth_of
from predictors.worth import SHARE, Array
from supernet.arch import Family


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
        log_size = self.constant + self.of_total * np.log(macs) + 0.5 * np.log(blocks) + spread
        error = (100.0 - self.prior.law.value(np.exp(log_size), self.family)) * np.exp(loss)
        accuracy: Array = np.maximum(100.0 - error, NEGLIGIBLE)
        return accuracy
