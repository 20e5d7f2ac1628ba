"""The best networks known so far, and how accurate they are at any latency."""

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from predictors.components import Indices
from predictors.worth import Array

CELLS = 1 << 15  # of a grid of log latency
LEAST_MS = 1e-300  # has a logarithm
SAME_MS, SAME_POINTS = 1e-10, 1e-9  # relative, and in accuracy: what rounding may do to a sum


def undominated(ms: Array, accuracy: Array) -> Indices:
    """Return which networks no other beats, fastest first; of equal ones the first."""
    order = np.lexsort((-accuracy, ms))
    before = np.maximum.accumulate(np.append(-math.inf, accuracy[order]))[:-1]
    return order[accuracy[order] > before]


class Known(Protocol):
    """Networks that are known, and what others must be to be looked at."""

    def better(self, bands: Indices, ms: Array, accuracy: Array) -> Indices:
        """Return which networks of some bands are better than those known."""

    def first(self, ms: Array, accuracy: Array) -> Indices:
        """Return which of better networks to take in first, some or all."""

    def add(self, ms: Array, accuracy: Array, genes: NDArray[np.integer]) -> None:
        """Take in networks."""


class Incumbent:
    """A front that grows."""

    def __init__(self, num_genes: int) -> None:
        self.ms, self.accuracy = np.zeros(0), np.zeros(0)
        self.genes: NDArray[np.integer] = np.zeros((0, num_genes), dtype=np.int64)
        self._low, self._per_cell, self._grid = 0.0, 1.0, np.full(1, -math.inf)

    def add(self, ms: Array, accuracy: Array, genes: NDArray[np.integer]) -> None:
        """Take in the networks that none beats, of those known and new."""
        all_ms = np.concatenate([self.ms, ms])
        all_accuracy = np.concatenate([self.accuracy, accuracy])
        kept = undominated(all_ms, all_accuracy)
        self.genes = np.concatenate([self.genes, genes])[kept]
        self.ms, self.accuracy = all_ms[kept], all_accuracy[kept]
        self._lay_out()

    def better(self, bands: Indices, ms: Array, accuracy: Array) -> Indices:
        """Return the networks that are more accurate than what is known at their latencies."""
        better = np.flatnonzero(accuracy > self.roughly(ms))
        return better[accuracy[better] > self.exactly(ms[better])]

    def first(self, ms: Array, accuracy: Array) -> Indices:
        """Return the best networks: once these are known, few others are better."""
        return undominated(ms, accuracy)

    def distinct(self) -> "Incumbent":
        """Return the front without networks that only rounding tells from better ones."""
        faster = np.append(-math.inf, self.accuracy)[:-1]
        slower = np.append(self.ms, math.inf)[1:]
        kept = (self.accuracy > faster + SAME_POINTS) & (slower > self.ms * (1 + SAME_MS))
        found = Incumbent(self.genes.shape[1])
        found.add(self.ms[kept], self.accuracy[kept], self.genes[kept])
        return found

    def _lay_out(self) -> None:
        if not len(self.ms):
            return
        self._low = math.log(self.ms[0])
        span = max(math.log(self.ms[-1]) - self._low, 1e-9)
        self._per_cell = (CELLS - 2) / span
        edges = self._low + np.arange(CELLS) / self._per_cell
        last = np.searchsorted(self.ms, np.exp(edges) * (1 - SAME_MS), side="right") - 1
        self._grid = np.where(last >= 0, self.accuracy[last], -math.inf)

    def roughly(self, ms: Array) -> Array:
        """Return accuracies known at latencies or a little below: never more than `exactly`."""
        cell = (np.log(np.maximum(ms, LEAST_MS)) - self._low) * self._per_cell
        inside = np.clip(cell, 0, len(self._grid) - 1).astype(np.intp)
        return np.where(cell >= 0, self._grid[inside], -math.inf)

    def exactly(self, ms: Array) -> Array:
        """Return the most accuracy known at latencies; -inf below the fastest."""
        if not len(self.ms):
            return np.full(np.shape(ms), -math.inf)
        last = np.searchsorted(self.ms, ms * (1 + SAME_MS), side="right") - 1
        return np.where(last >= 0, self.accuracy[last], -math.inf)
