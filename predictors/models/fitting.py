"""Fit all members to some rows of an encoded table, and predict the others."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.models import gp as gps
from predictors.models.model import BASE, Linear, Members
from predictors.models.table import Array
from predictors.models.trees import fit_trees
from predictors.models.warp import Warp, bend_of

Rows = NDArray[np.intp]
FOLDS, REPEATS = 6, 2
STEPS_AGAIN = 15  # of the optimiser without a fold, from the whole table's hyperparameters


@dataclass(frozen=True)
class Encodings:
    """A table as numbers: what fits and predictions are made of."""

    z: Array  # (rows, columns)
    values: Array  # (rows,)
    groups: tuple[slice, ...]
    tree_columns: Rows


@dataclass(frozen=True)
class Tuning:
    """What is chosen once for a table, and taken as a start where rows are left out."""

    bend: float  # of the target
    theta: Array | None  # the Gaussian process's hyperparameters; None: from scratch


@dataclass(frozen=True)
class Parts:
    """Predictions of some rows by fits to others, in the scale that `Warp` of all values gives."""

    ridge: Array
    gp: Array
    trees: Array
    own: Array  # standard deviations of the Gaussian process


def tuned(data: Encodings) -> tuple[float, Array]:
    """Return the bend of the target that the Gaussian process likes best, and its parameters."""
    rows = gps.some_rows(len(data.values), gps.MOST_TUNED)
    z, values = data.z[rows], data.values[rows]
    bend = bend_of(values)
    found = []
    start = None
    for choice in dict.fromkeys((bend / 2, 0.0, bend)):
        warp = Warp.of(data.values, choice)
        theta, misfit = gps.tune(z, warp.to(values), data.groups, start)
        found.append((misfit - warp.log_slopes(values), choice, theta))
        start = theta
    _, best, theta = min(found, key=lambda one: one[0])
    return best, theta


def fit_members(data: Encodings, rows: Rows, warp: Warp, theta: Array) -> Members:
    """Fit all members to some rows, with the Gaussian process's hyperparameters."""
    from predictors.ridge import fit_ridge

    z, t = data.z[rows], warp.to(data.values[rows])
    fitted = fit_ridge(z, t)
    ridge = Linear(fitted.mean - float(fitted.means @ fitted.effects), fitted.effects)
    held = gps.some_rows(len(rows), gps.MOST_ROWS)
    gp = gps.condition(z[held], t[held], data.groups, theta)
    trees = fit_trees(z[:, data.tree_columns], t - BASE * ridge.predict(z))
    return Members(ridge, gp, trees, data.tree_columns)


def predict_others(data: Encodings, rows: Rows, others: Rows, tuning: Tuning) -> Parts:
    """Fit to `rows`, from `tuning` on, and predict `others`."""
    warp = Warp.of(data.values, tuning.bend)
    some = rows[gps.some_rows(len(rows), gps.MOST_TUNED)]
    t = warp.to(data.values[some])
    steps = gps.STEPS if tuning.theta is None else STEPS_AGAIN
    theta, _ = gps.tune(data.z[some], t, data.groups, tuning.theta, steps)
    members = fit_members(data, rows, warp, theta)
    z = data.z[others]
    means, own = members.gp.predict_both(z)
    return Parts(members.predict("ridge", z), means, members.predict("trees", z), own)


@dataclass(frozen=True)
class CrossValidation:
    """Predictions of every row by fits that have not seen it, by repeat: (repeats, rows)."""

    members: Array  # (3, repeats, rows), in the order of MEMBERS
    own: Array
    folds: NDArray[np.intp]

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return int(self.folds.shape[1])


def cross_validate(data: Encodings, tuning: Tuning) -> CrossValidation:
    """Leave out every fold once, in several splits that depend on the number of rows alone."""
    count = len(data.values)
    members = np.empty((3, REPEATS, count))
    own = np.empty((REPEATS, count))
    folds = np.empty((REPEATS, count), dtype=np.intp)
    for repeat in range(REPEATS):
        order = np.random.default_rng(repeat).permutation(count)
        for fold in range(FOLDS):
            out = order[fold::FOLDS]
            kept = np.delete(order, np.s_[fold::FOLDS])
            parts = predict_others(data, np.sort(kept), out, tuning)
            members[:, repeat, out] = parts.ridge, parts.gp, parts.trees
            own[repeat, out], folds[repeat, out] = parts.own, fold
    return CrossValidation(members, own, folds)
