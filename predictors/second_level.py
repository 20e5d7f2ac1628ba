"""A model of few values: linear in one feature that matters, and in one other where it must be.

value = mean + effects . (x - means), by ridge regression. The first feature's effect is positive
where it is alone, or there is none; one other counts beside it only where leaving out one row at a
time says clearly so.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy.stats import t as student

from predictors.worth import Array

SHRINKAGES = (0.1, 0.3, 1.0)  # penalties, as shares of a feature's sum of squares
# A feature beside the first one counts where it brings the mean squared error on rows left out
# below 1 - CLEARLY / sqrt(rows) of that without: less, and luck among few rows decides; more, and
# real effects are overlooked (docs/log.md).
CLEARLY = 1.75
ROUNDING = 1e-9  # relative; features that differ by less are equal
COVERED = 0.9
NORMAL = 1.6448536269514722  # half the 90 % interval of a normal distribution, in its std


@dataclass(frozen=True)
class Linear:
    """A ridge regression on some columns of features."""

    columns: tuple[int, ...]
    shrinkages: tuple[float, ...]  # of the columns
    mean: float  # of the values
    means: Array  # (columns,)
    effects: Array  # (columns,)
    inverse: Array  # of the penalised sums of squares, (columns, columns)
    count: int  # rows
    mean_square: float  # of errors on rows left out, the columns and shrinkages being given

    def predict(self, x: Array) -> Array:
        """Return values (rows,) of features (rows, all columns)."""
        values: Array = self.mean + self._centred(x) @ self.effects
        return values

    def leverage(self, x: Array) -> Array:
        """Return how much less sure than of its noise the fit is of rows, as variances, (rows,)."""
        centred = self._centred(x)
        found: Array = 1 / self.count + np.einsum("ij,jk,ik->i", centred, self.inverse, centred)
        return found

    def _centred(self, x: Array) -> Array:
        centred: Array = x[:, list(self.columns)] - self.means
        return centred


def fit_linear(
    x: Array, values: Array, columns: Sequence[int] = (), shrinkages: Sequence[float] = ()
) -> Linear:
    """Fit to features (rows, all columns) and values (rows,), of two rows or more."""
    kept = x[:, list(columns)]
    means = kept.mean(axis=0)
    centred = kept - means
    squares = (centred**2).sum(axis=0)
    varies = squares > len(values) * (ROUNDING * np.maximum(1.0, np.abs(means))) ** 2
    penalties = np.where(varies, np.array(shrinkages) * squares, 1.0)  # constant: no effect
    centred = np.where(varies, centred, 0.0)
    inverse = np.linalg.inv(centred.T @ centred + np.diag(penalties))
    mean = float(values.mean())
    effects = inverse @ centred.T @ (values - mean)
    residuals = values - mean - centred @ effects
    leverages = 1 / len(values) + np.einsum("ij,jk,ik->i", centred, inverse, centred)
    # A fit without row i, of the same penalties, errs by its residual / (1 - its leverage).
    mean_square = float(np.mean((residuals / (1 - leverages)) ** 2))
    return Linear(
        tuple(columns), tuple(shrinkages), mean, means, effects, inverse, len(values), mean_square
    )


def choose_linear(x: Array, values: Array) -> Linear:
    """Return the fit on the first column, or a mean where that has no positive effect.

    On the first column and one of the others where that is clearly better.
    """
    plain = [fit_linear(x, values, (0,), (share,)) for share in SHRINKAGES]
    rising = [fit for fit in plain if fit.effects[0] > 0]
    chosen = _best(rising) if rising else fit_linear(x, values)
    pair = _best(
        fit_linear(x, values, (0, other), shares)
        for other in range(1, x.shape[1])
        for shares in product(SHRINKAGES, repeat=2)
    )
    clearly = 1 - CLEARLY / len(values) ** 0.5
    return pair if pair.mean_square < clearly * chosen.mean_square else chosen


def _best(fits: Iterable[Linear]) -> Linear:
    return min(fits, key=lambda fit: fit.mean_square)


@dataclass(frozen=True)
class SecondLevel:
    """A fit that was chosen, and how far the same choice is off on rows that it has not seen."""

    fit: Linear
    left_out: Array  # predictions of the rows by fits and choices without them, (rows,)
    guesses: Array  # means of the other rows, (rows,)
    scale: float  # standard deviation of noise, by the 90 % interval

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Return means and standard deviations, each (rows,), of features (rows, columns)."""
        return self.fit.predict(x), self.scale * np.sqrt(1 + self.fit.leverage(x))

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Return all numbers of the fit, by the columns' names."""
        named = [names[column] for column in self.fit.columns]
        return {
            "mean": self.fit.mean,
            "means": dict(zip(named, self.fit.means.tolist(), strict=True)),
            "effects": dict(zip(named, self.fit.effects.tolist(), strict=True)),
            "shrinkages": dict(zip(named, self.fit.shrinkages, strict=True)),
            "std_of_noise": self.scale,
        }


def fit_second_level(x: Array, values: Array) -> SecondLevel:
    """Fit to features (rows, columns) and values (rows,), of four rows or more.

    The 90 % interval is Student's, or where that is wider the quantile of errors by rank: errors on
    rows left out tell it, of which there are few, and which have long tails.
    """
    fit, count = choose_linear(x, values), len(values)
    left_out, guesses, ratios = np.empty(count), np.empty(count), np.empty(count)
    for row in range(count):
        rest = np.arange(count) != row
        others = choose_linear(x[rest], values[rest])
        left_out[row] = others.predict(x[[row]])[0]
        guesses[row] = values[rest].mean()
        sureness = np.sqrt(1 + others.leverage(x[[row]])[0])
        ratios[row] = abs(left_out[row] - values[row]) / sureness
    return SecondLevel(fit, left_out, guesses, _half_width(ratios) / NORMAL)


def _half_width(ratios: Array) -> float:
    """Return half the 90 % interval, of absolute errors on rows left out."""
    count = len(ratios)
    freedom = max(1, count - 3)  # a mean, an effect, and the choice
    normal = float(student.ppf((1 + COVERED) / 2, freedom)) * float(np.sqrt(np.mean(ratios**2)))
    rank = min(count, math.ceil((count + 1) * COVERED))
    return max(normal, float(np.sort(ratios)[rank - 1]))
