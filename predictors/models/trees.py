"""Boosted trees of depth three, on what a ridge regression leaves over.

A table of few rows is mostly linear: trees that start from most of the ridge's prediction have the
interplay of choices left to find.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.models.table import Array

DEPTH = 3
DECIMALS = 9
FEW = 32  # rows, from which a loop over trees is worth it
NODES, LEAVES = 2**DEPTH - 1, 2**DEPTH
SETTINGS: dict[str, Any] = {
    "n_estimators": 200,
    "learning_rate": 0.07,
    "max_depth": DEPTH,
    "subsample": 0.6,
    "max_features": 0.3,
    "min_samples_leaf": 3,
    "random_state": 0,
}


@dataclass(frozen=True)
class Trees:
    """Trees as full ones of depth three: node n has the children 2 n + 1 and 2 n + 2."""

    columns: NDArray[np.int32]  # (trees, 7), that a node splits by
    thresholds: NDArray[np.float64]  # (trees, 7), up to which a row goes left
    leaves: Array  # (trees, 8), learning rate included
    start: float

    def predict(self, z: Array) -> Array:
        """Return the sum of all trees' leaves for rows (rows, columns)."""
        if len(z) < FEW:
            return self._predict_few(z)
        # scikit-learn compares single precision to thresholds in double
        x = np.ascontiguousarray(z.T.astype(np.float32))
        total = np.full(len(z), self.start)
        for columns, thresholds, leaves in zip(
            self.columns, self.thresholds, self.leaves, strict=True
        ):
            goes = [x[c] > t for c, t in zip(columns, thresholds, strict=True)]
            first = goes[0]
            second = np.where(first, goes[2], goes[1])
            third = np.where(
                first, np.where(second, goes[6], goes[5]), np.where(second, goes[4], goes[3])
            )
            leaf = (first.view(np.uint8) << 2) | (second.view(np.uint8) << 1) | third
            total += leaves.take(leaf)
        return total

    def _predict_few(self, z: Array) -> Array:
        """Return the same, of all trees at once."""
        goes = z.astype(np.float32)[:, self.columns] > self.thresholds
        place = np.zeros(goes.shape[:2], dtype=np.intp)
        for _ in range(DEPTH):
            went = np.take_along_axis(goes, place[:, :, None], axis=2)[:, :, 0]
            place = 2 * place + 1 + went
        leaves = np.take_along_axis(self.leaves[None], (place - NODES)[:, :, None], axis=2)
        total: Array = self.start + leaves[:, :, 0].sum(axis=1)
        return total


def fit_trees(z: Array, values: Array) -> Trees:
    """Fit by scikit-learn to rows (rows, columns) and values (rows,)."""
    from sklearn.ensemble import GradientBoostingRegressor

    # A rounding error elsewhere must not decide between two splits that are as good.
    fitted = GradientBoostingRegressor(**SETTINGS).fit(z, np.round(values, DECIMALS))
    return from_sklearn(fitted)


def from_sklearn(fitted: Any) -> Trees:
    """Return the trees of a GradientBoostingRegressor of depth three at most."""
    count = len(fitted.estimators_)
    columns = np.zeros((count, NODES), np.int32)
    thresholds = np.full((count, NODES), np.inf)
    leaves = np.zeros((count, LEAVES))
    for index, (regressor,) in enumerate(fitted.estimators_):
        tree = regressor.tree_
        walk = [(0, 0)]  # a node of theirs, and where it stands in the full tree
        while walk:
            node, place = walk.pop()
            left = int(tree.children_left[node])
            if left >= 0:
                columns[index, place] = tree.feature[node]
                thresholds[index, place] = tree.threshold[node]
                walk += [(left, 2 * place + 1), (int(tree.children_right[node]), 2 * place + 2)]
                continue
            while place < NODES:  # a leaf higher up: everything goes left from there
                place = 2 * place + 1
            leaves[index, place - NODES] = fitted.learning_rate * tree.value[node, 0, 0]
    return Trees(columns, thresholds, leaves, float(np.ravel(fitted.init_.constant_)[0]))
