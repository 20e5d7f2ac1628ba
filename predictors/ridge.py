"""Ridge regression, its penalty chosen by leaving out one row at a time.

value = mean + (x - means) . effects, minimising squared errors + penalty * |effects|^2

Source: leaving one out in closed form, Golub, Heath and Wahba, "Generalized cross-validation as
a method for choosing a good ridge parameter", 1979.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PENALTIES = tuple(10.0**exponent for exponent in range(-6, 5))


@dataclass(frozen=True)
class Ridge:
    """A fit on rows of features."""

    mean: float  # of the values
    means: Array  # of the features, (columns,)
    effects: Array  # (columns,)
    penalty: float

    def predict(self, x: Array) -> Array:
        """Values (rows,) of features (rows, columns), where NaN stands for a column's mean."""
        centred = np.where(np.isnan(x), 0.0, x - self.means)
        found: Array = self.mean + centred @ self.effects
        return found


def fit_ridge(x: Array, values: Array) -> Ridge:
    """Fit to features (rows, columns) and values (rows,), of two rows or more."""
    mean, means = float(values.mean()), x.mean(axis=0)
    target = values - mean
    u, s, vt = np.linalg.svd(x - means, full_matrices=False)
    along = u.T @ target

    def left_out(penalty: float) -> float:
        """Sum of squared errors, each row predicted from all others."""
        shrink = s**2 / (s**2 + penalty)
        leverage = 1 / len(values) + (u**2) @ shrink
        errors = (target - u @ (shrink * along)) / np.maximum(1 - leverage, 1e-12)
        return float(np.sum(errors**2))

    penalty = min(PENALTIES, key=left_out)
    return Ridge(mean, means, vt.T @ (s / (s**2 + penalty) * along), penalty)
