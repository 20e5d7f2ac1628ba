"""A Gaussian process: a linear part of every group of columns, and a Matern 5/2 part of all.

k(x, x') = sum_g a_g x_g . x'_g + b m(r), r^2 = sum_g |x_g - x'_g|^2 / l_g^2, and noise.

Variances and lengths maximise the marginal likelihood, times a wide log-normal prior on each
without which 50 rows would choose extremes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from predictors.models.table import Array

ROOT5 = float(np.sqrt(5.0))
JITTER = 1e-8
MOST_TUNED, MOST_ROWS = 400, 1000  # rows that hyperparameters, and predictions, rest on
MOST_DIRECTIONS = 128  # of the variance that the rows take away
STEPS = 60  # of the optimiser
# log of: a linear variance, the Matern variance, a length, the noise
CENTRES = (np.log(0.3), np.log(0.3), 0.6, np.log(0.05))
WIDTHS = (1.5, 1.5, 1.0, 1.5)
BOUNDS = ((-9.0, 5.0), (-9.0, 5.0), (-3.0, 5.0), (-9.0, 2.0))


@dataclass(frozen=True)
class GaussianProcess:
    """A fit; see the module. Predicts in the scale of the values that it was given."""

    theta: Array  # log of: linear variances, Matern variance, lengths, noise
    inverse_lengths: Array  # of every column
    linear: Array  # effects of the linear part, (columns,)
    variances: Array  # linear variance of every column
    rows: Array  # of the fit, divided by lengths, (rows, columns)
    alpha: Array  # (rows,)
    root: Array  # (rows, directions); root @ root.T is the inverse of the rows' covariance
    linear_root: Array  # (columns, directions); the linear part's share in the same
    mean: float
    std: float  # of the values

    def predict(self, z: Array) -> Array:
        """Return means of rows (rows, columns)."""
        means: Array = self.mean + self.std * (z @ self.linear + self._matern(z) @ self.alpha)
        return means

    def predict_both(self, z: Array) -> tuple[Array, Array]:
        """Return means and standard deviations, the noise included."""
        means, left = self._mean_and_variance(z)
        return means, self.std * np.sqrt(np.maximum(left, np.exp(self.theta[-1])))

    def predict_function(self, z: Array) -> tuple[Array, Array]:
        """Return means and standard deviations of what is behind the noise."""
        means, left = self._mean_and_variance(z)
        return means, self.std * np.sqrt(np.maximum(left - np.exp(self.theta[-1]), JITTER))

    def _mean_and_variance(self, z: Array) -> tuple[Array, Array]:
        """Return means, and variances with the noise in the scale of standardised values."""
        matern = self._matern(z)
        means: Array = self.mean + self.std * (z @ self.linear + matern @ self.alpha)
        taken = matern @ self.root + z @ self.linear_root
        count = (len(self.theta) - 2) // 2
        left = (z**2) @ self.variances + np.exp(self.theta[count]) + np.exp(self.theta[-1]) + JITTER
        left -= np.einsum("ij,ij->i", taken, taken)
        return means, left

    def _matern(self, z: Array) -> Array:
        amount = np.exp(self.theta[(len(self.theta) - 2) // 2])
        return matern(squared_distances(z * self.inverse_lengths, self.rows), amount)


def squared_distances(a: Array, b: Array) -> Array:
    """Return |a_i - b_j|^2, (rows of a, rows of b)."""
    squares = a @ b.T
    squares *= -2.0
    squares += np.einsum("ij,ij->i", a, a)[:, None]
    squares += np.einsum("ij,ij->i", b, b)
    return np.maximum(squares, 0.0, out=squares)


def matern(squares: Array, amount: float) -> Array:
    """Return amount (1 + sqrt(5) r + 5/3 r^2) exp(-sqrt(5) r) of r^2."""
    r = np.sqrt(squares)
    r *= ROOT5
    k: Array = r * r
    k /= 3.0
    k += r
    k += 1.0
    np.negative(r, out=r)
    k *= np.exp(r, out=r)
    k *= amount
    return k


def tune(
    z: Array, values: Array, groups: Sequence[slice], start: Array | None = None, steps: int = STEPS
) -> tuple[Array, float]:
    """Return the hyperparameters of the highest posterior, and minus its logarithm.

    The latter is that of the values themselves, so that it compares between transformations of
    them once log(dt/dvalue) is taken off.
    """
    from scipy.optimize import minimize

    y, count = (values - values.mean()) / values.std(), len(groups)
    products = [z[:, group] @ z[:, group].T for group in groups]
    apart = [squared_distances(z[:, group], z[:, group]) for group in groups]
    centres = np.repeat(CENTRES, (count, 1, count, 1))
    widths = np.repeat(WIDTHS, (count, 1, count, 1))

    def misfit(theta: Array) -> tuple[float, Array]:
        return _misfit(theta, products, apart, y, (centres, widths))

    found = minimize(
        misfit,
        np.asarray(centres if start is None else start, np.float64),
        jac=True,
        method="L-BFGS-B",
        bounds=np.repeat(BOUNDS, (count, 1, count, 1), axis=0).tolist(),
        options={"maxiter": steps},
    )
    return found.x, float(found.fun + len(y) * np.log(values.std()))


def _misfit(
    theta: Array,
    products: list[Array],
    apart: list[Array],
    y: Array,
    prior: tuple[Array, Array],
) -> tuple[float, Array]:
    """Return minus the log posterior, and its gradient."""
    from scipy.linalg import cho_solve, cholesky
    from scipy.linalg.lapack import dpotri

    count = len(products)
    linear, amount = np.exp(theta[:count]), np.exp(theta[count])
    lengths, noise = np.exp(-2 * theta[count + 1 : -1]), np.exp(theta[-1])
    squares = sum(weight * distance for weight, distance in zip(lengths, apart, strict=True))
    r = ROOT5 * np.sqrt(squares)
    decay = amount * np.exp(-r)
    part = (1 + r + r**2 / 3) * decay
    k = part + sum(weight * product for weight, product in zip(linear, products, strict=True))
    k[np.diag_indices_from(k)] += noise + JITTER
    try:
        factor = cholesky(k, lower=True)
    except np.linalg.LinAlgError:
        return 1e10, np.zeros_like(theta)
    alpha = cho_solve((factor, True), y)
    inverse, _ = dpotri(factor, lower=1)
    weights = np.tril(inverse) + np.tril(inverse, -1).T - np.outer(alpha, alpha)
    weights /= 2
    slope = weights * (5 / 6 * (1 + r) * decay)  # of the Matern part, by minus r^2
    off = (theta - prior[0]) / prior[1]
    gradient = [
        *(a * np.vdot(weights, product) for a, product in zip(linear, products, strict=True)),
        np.vdot(weights, part),
        *(2 * i * np.vdot(slope, distance) for i, distance in zip(lengths, apart, strict=True)),
        noise * np.trace(weights),
    ]
    value = 0.5 * y @ alpha + np.log(np.diag(factor)).sum() + 0.5 * off @ off
    return float(value), np.array(gradient) + off / prior[1]


def condition(z: Array, values: Array, groups: Sequence[slice], theta: Array) -> GaussianProcess:
    """Return the process with these hyperparameters, given rows and values."""
    from scipy.linalg import eigh

    mean, std = float(values.mean()), float(values.std())
    count = len(groups)
    variances, inverse = np.zeros(z.shape[1]), np.zeros(z.shape[1])
    for index, group in enumerate(groups):
        variances[group] = np.exp(theta[index])
        inverse[group] = np.exp(-theta[count + 1 + index])
    rows = z * inverse
    k = matern(squared_distances(rows, rows), np.exp(theta[count])) + (z * variances) @ z.T
    k[np.diag_indices_from(k)] += np.exp(theta[-1]) + JITTER
    powers, vectors = eigh(k)
    alpha = vectors @ ((vectors.T @ ((values - mean) / std)) / powers)
    root = vectors[:, -MOST_DIRECTIONS:] / np.sqrt(powers[-MOST_DIRECTIONS:])
    linear_root = variances[:, None] * (z.T @ root)
    return GaussianProcess(
        theta=theta,
        inverse_lengths=inverse,
        linear=variances * (z.T @ alpha),
        variances=variances,
        rows=rows,
        alpha=alpha,
        root=root,
        linear_root=linear_root,
        mean=mean,
        std=std,
    )


def some_rows(count: int, most: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return `most` of the numbers below `count`, the same each time; all where they are fewer."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:most])
