"""Trees of boxes around half networks, for what the best of many pairs could be.

The items of a half (`nas.exact.halves`) are numbers by name. A tree halves them again and again
where they differ most; each node knows the least and the most of every number below it, so that
two nodes together bound all networks made of their items.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from predictors.components import Indices
from predictors.worth import Array


@dataclass(frozen=True)
class Layout:
    """Which items lie together in a tree."""

    order: Indices  # (leaves,) items, so that halves, quarters and so on are alike
    width: Array  # (2 * leaves,) how much the items of a node differ; 0 of a leaf

    @classmethod
    def of(cls, values: Array) -> "Layout":
        """Order items by numbers whose differences matter alike, (numbers, items)."""
        count = values.shape[1]
        leaves = 1 << (count - 1).bit_length()
        order = (np.arange(leaves) * count // leaves).reshape(1, leaves)  # some stand twice
        width = [np.zeros(1)]
        while order.shape[1] > 1:
            half = order.shape[1] // 2
            own = values[:, order]  # (numbers, nodes, items of a node)
            spread = np.ptp(own, axis=2)
            width.append(spread.sum(axis=0))
            widest = own[spread.argmax(axis=0), np.arange(len(order))]
            ranks = np.argpartition(widest, half - 1, axis=1)
            order = np.take_along_axis(order, ranks, axis=1).reshape(-1, half)
        return cls(order.ravel(), np.concatenate([*width, np.zeros(leaves)]))


@dataclass(frozen=True)
class Boxes:
    """A complete binary tree: node 1 is the root, the children of node i are 2 i and 2 i + 1."""

    low: Mapping[str, Array]  # by name, (2 * leaves,); entry 0 is unused
    high: Mapping[str, Array]
    width: Array  # (2 * leaves,) about how much the items of a node differ
    item: Indices  # (leaves,) of each leaf, the nodes from `leaves` on

    @classmethod
    def of(cls, items: Mapping[str, Array], layout: Layout) -> "Boxes":
        """Make the boxes of items (items,) by name, laid out by these or by similar ones."""
        low = {name: _reduce(values[layout.order], np.minimum) for name, values in items.items()}
        high = {name: _reduce(values[layout.order], np.maximum) for name, values in items.items()}
        return cls(low, high, layout.width, layout.order)

    @property
    def leaves(self) -> int:
        """Return the number of leaves, which is the first one's number."""
        return len(self.item)


def _reduce(leaves: Array, best: np.ufunc) -> Array:
    """Return the best below each node, (2 * leaves,)."""
    levels = [leaves]
    while len(levels[-1]) > 1:
        levels.append(best(levels[-1][::2], levels[-1][1::2]))
    return np.concatenate([leaves[:1], *reversed(levels)])
