"""Trees as upper bounds that are sums over groups of columns.

A tree of depth three gives one of eight leaves, and a row of a group rules out those that its own
columns contradict. What the group gives is the best leaf that is left; taken off the leaves that
agree with it, it leaves less to the next group. So the groups' shares add up to no less than the
leaf that all of them together lead to.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from predictors.models.table import Array
from predictors.models.trees import DEPTH, LEAVES, NODES, Trees

Marks = NDArray[np.bool_]
CODES = 1 << NODES  # of where a row goes at each node


def _paths() -> tuple[NDArray[np.intp], Marks]:
    """Return the nodes that lead to each leaf, and whether a row goes right there."""
    nodes = np.zeros((LEAVES, DEPTH), dtype=np.intp)
    right = np.zeros((LEAVES, DEPTH), dtype=np.bool_)
    for leaf in range(LEAVES):
        node = 0
        for depth in range(DEPTH):
            goes = bool(leaf >> (DEPTH - 1 - depth) & 1)
            nodes[leaf, depth], right[leaf, depth] = node, goes
            node = 2 * node + 1 + goes
    return nodes, right


PATH, GOES_RIGHT = _paths()


class Group:
    """The rows of some columns that other columns are independent of."""

    def __init__(self, trees: Trees, z: Array, is_own: Marks) -> None:
        """Take rows of all columns (rows, columns), and which columns are the group's."""
        own = is_own[trees.columns] & np.isfinite(trees.thresholds)
        self.trees = np.flatnonzero(own.any(axis=1))
        columns, thresholds = trees.columns[self.trees], trees.thresholds[self.trees]
        own = own[self.trees]
        x = np.ascontiguousarray(z.T.astype(np.float32))
        codes = np.zeros((len(self.trees), len(z)), dtype=np.uint8)
        for tree, node in zip(*np.nonzero(own), strict=True):
            goes = x[columns[tree, node]] > thresholds[tree, node]
            codes[tree] |= goes.view(np.uint8) << np.uint8(node)
        # Only few of the codes of a tree occur, each for many rows.
        numbered = np.arange(len(self.trees))[:, None] * CODES + codes
        present, inverse = np.unique(numbered, return_inverse=True)
        self._pair = inverse.reshape(codes.shape).astype(np.uint16)  # (trees, rows)
        self._tree, code = np.divmod(present, CODES)
        self._first = np.searchsorted(self._tree, np.arange(len(self.trees)))
        bits = (code[:, None] >> np.arange(NODES) & 1).astype(np.bool_)
        agrees = (bits[:, PATH] == GOES_RIGHT) | ~own[self._tree][:, PATH]
        self._agrees: Marks = agrees.all(axis=2)  # (codes that occur, leaves)

    def take(self, leaves: Array) -> Array:
        """Return the group's share (rows,), and take it off the trees' leaves."""
        if not len(self.trees):
            return np.zeros(self._pair.shape[1])
        own = leaves[self.trees]
        best = np.where(self._agrees, own[self._tree], -np.inf).max(axis=1)
        taken = np.where(self._agrees & np.isfinite(best)[:, None], best[:, None], np.inf)
        least = np.minimum.reduceat(taken, self._first)
        with np.errstate(invalid="ignore"):
            leaves[self.trees] = np.where(np.isfinite(least), own - least, -np.inf)
        share: Array = best[self._pair].sum(axis=0)
        return share


def reachable(trees: Trees, least: Array, most: Array) -> Array:
    """Return leaves (trees, 8), -inf where columns between limits (columns,) lead to none.

    An infinite limit is none.
    """
    low = least.astype(np.float32)[trees.columns]
    high = most.astype(np.float32)[trees.columns]
    may = np.stack([low <= trees.thresholds, high > trees.thresholds])
    is_reached = may[GOES_RIGHT.astype(np.intp)[None], np.arange(len(low))[:, None, None], PATH]
    return np.where(is_reached.all(axis=2), trees.leaves, -np.inf)


def upper(trees: Trees, groups: Sequence[Group], limits: tuple[Array, Array]) -> list[Array]:
    """Return upper bounds of all trees' sum, by group, (rows,).

    Of rows whose columns that are of no group are within limits.
    """
    leaves = reachable(trees, *limits)
    shares = [group.take(leaves) for group in groups]
    shares[0] += trees.start + leaves.max(axis=1).sum()
    return shares
