"""A monotone transformation of values, for targets whose distribution leans to one side.

t = (exp(k z) - 1) / k of z = (value - mean) / std; k = 0 is the identity. Accuracies crowd below
what is possible, where a positive k spreads them. Outside of the values of the fit it goes on as a
straight line, so that every t has a value.
"""

from typing import Annotated

import msgspec
import numpy as np

from predictors.models.table import Array
from results.reading import Finite, Record

MOST_BENT = 2.0
LEAST_BENT = 1e-9  # below, the formula loses digits and says no more than the identity


class Warp(Record, frozen=True):
    """A transformation of values of a known range."""

    mean: Finite
    std: Annotated[float, msgspec.Meta(gt=0, le=1e15)]
    low: Finite  # the least z of the fit
    high: Finite
    bend: Finite = 0.0  # k

    @classmethod
    def of(cls, values: Array, bend: float = 0.0) -> "Warp":
        """Return the transformation for values that are not all equal."""
        mean, std = float(values.mean()), float(values.std())
        z = (values - mean) / std
        return cls(mean=mean, std=std, bend=bend, low=float(z.min()), high=float(z.max()))

    def to(self, values: Array) -> Array:
        """Return transformed values."""
        z = (values - self.mean) / self.std
        inside = np.clip(z, self.low, self.high)
        t: Array = self._bent(inside) + (z - inside) * np.exp(self.bend * inside)
        return t

    def back(self, t: Array) -> Array:
        """Return the values that `to` gives `t` of."""
        values: Array = self.mean + self.std * self._z(t)
        return values

    def slope(self, t: Array) -> Array:
        """Return by how much values change with t."""
        inside = np.clip(self._z(t), self.low, self.high)
        slopes: Array = self.std * np.exp(-self.bend * inside)
        return slopes

    def log_slopes(self, values: Array) -> float:
        """Return the sum of log(dt/dz), by which a density of t becomes one of values."""
        return float(self.bend * ((values - self.mean) / self.std).sum())

    def _bent(self, z: Array) -> Array:
        return z if abs(self.bend) < LEAST_BENT else np.expm1(self.bend * z) / self.bend

    def _z(self, t: Array) -> Array:
        ends = self._bent(np.array([self.low, self.high]))
        inside = np.clip(t, *ends)
        z = inside if abs(self.bend) < LEAST_BENT else np.log1p(self.bend * inside) / self.bend
        along: Array = z + (t - inside) * np.exp(-self.bend * z)
        return along


def bend_of(values: Array) -> float:
    """Return the k that makes values most like a normal distribution, by maximum likelihood."""
    z = (values - values.mean()) / values.std()
    choices = np.linspace(-MOST_BENT, MOST_BENT, 81)

    def misfit(bend: float) -> float:
        t = z if abs(bend) < LEAST_BENT else np.expm1(bend * z) / bend
        return float(np.log(t.std()) - bend * z.mean())

    best = min(choices.tolist(), key=misfit)
    return 0.0 if abs(best) < LEAST_BENT else best
