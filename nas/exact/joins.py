"""Pairs of rows of two tables that agree in a key and whose values add up to enough."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from predictors.components import Indices
from predictors.worth import Array

ROUNDING = 1e-8  # by which a sum may miss a limit


@dataclass(frozen=True)
class Join:
    """The pairs, counted before they are made."""

    counts: Indices  # of pairs of each row of the first table
    _start: Indices  # of these, the first in `_order`
    _order: Indices  # rows of the second table by key, the largest value first

    @classmethod
    def of(cls, keys: tuple[Indices, Indices], values: tuple[Array, Array], least: Array) -> "Join":
        """Find the pairs.

        Args:
            keys: of both tables, from 0.
            values: finite.
            least: that values of a pair must add up to, for each row of the first table.
        """
        (key_a, key_b), (value_a, value_b) = keys, values
        order = np.lexsort((-value_b, key_b))
        sorted_keys, sorted_values = key_b[order], value_b[order]
        num_keys = 1 + max(key_a.max(initial=-1), key_b.max(initial=-1))
        start = np.searchsorted(sorted_keys, np.arange(num_keys + 1))
        if not len(order):
            nothing = np.zeros(len(key_a), dtype=np.intp)
            return cls(nothing, nothing, order)
        best = np.where(
            start[1:] > start[:-1], sorted_values[np.minimum(start[:-1], len(order) - 1)], -np.inf
        )
        behind = best[sorted_keys] - sorted_values
        gap = 2 * behind.max() + 1  # between keys
        admitted = best[key_a] - (least - value_a) + ROUNDING
        limit = np.clip(admitted, -gap / 4, gap - 0.5)
        end = np.searchsorted(sorted_keys * gap + behind, key_a * gap + limit, side="right")
        counts = np.maximum(end - start[key_a], 0)
        return cls(counts, start[key_a], order)

    @property
    def total(self) -> int:
        """Return the number of pairs."""
        return int(self.counts.sum())

    def pairs(self, rows: Indices | None = None) -> tuple[Indices, Indices]:
        """Return the pairs of some rows of the first table, by default all, as rows of both."""
        own = np.arange(len(self.counts)) if rows is None else rows
        counts = self.counts[own]
        first = np.repeat(own, counts)
        ends = np.cumsum(counts)
        within = np.arange(len(first)) - np.repeat(ends - counts, counts)
        return first, self._order[self._start[first] + within]

    def chunks(self, rows: Indices, size: int) -> Iterator[tuple[Indices, Indices]]:
        """Yield the pairs of some rows of the first table, about `size` at a time."""
        ends = np.cumsum(self.counts[rows])
        begin = 0
        while begin < len(ends):
            done = ends[begin - 1] if begin else 0
            end = max(int(np.searchsorted(ends, done + size, side="right")), begin + 1)
            if ends[end - 1] > done:
                yield self.pairs(rows[begin:end])
            begin = end
