"""Ridge regression, its penalty chosen by leaving out one row at a time.

value = mean + (x - means) . effects, minimising squared errors + penalty * |effects|^2
"""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import RidgeCV

from predictors.worth import Array

PENALTIES = tuple(10.0**exponent for exponent in range(-6, 5))


@dataclass(frozen=True)
class Ridge:
    """A fit on rows of features."""

    mean: float  # of the values
    means: Array  # of the features, (columns,)
    effects: Array  # (columns,)
    penalty: float

    def predict(self, x: Array) -> Array:
        """Return values (rows,) of features (rows, columns); NaN stands for a column's mean."""
        centred = np.where(np.isnan(x), 0.0, x - self.means)
        values: Array = self.mean + centred @ self.effects
        return values


def fit_ridge(x: Array, values: Array) -> Ridge:
    """Fit to features (rows, columns) and values (rows,), of two rows or more."""
    # Of the Gram matrix, scikit-learn's other way, rounding decides between small penalties.
    fit = RidgeCV(alphas=PENALTIES, gcv_mode="svd").fit(x, values)
    return Ridge(float(values.mean()), x.mean(axis=0), fit.coef_, float(fit.alpha_))
