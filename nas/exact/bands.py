"""What networks must be to improve a front, by ranges of latency."""

import math
from dataclasses import dataclass, replace

import numpy as np

from nas.exact.incumbent import SAME_MS, Incumbent
from nas.exact.score import Score
from predictors.components import Indices
from predictors.part_rows import Marks
from predictors.worth import Array

STEPS = 32  # of a front in one band
NEARBY = 2  # bands on either side, between which a front's slope is taken


@dataclass(frozen=True)
class Needs:
    """What networks of one family need in some bands."""

    end_ms: Array  # (bands, steps) the latency that must not be reached
    least: Array  # (bands, steps) of log size - slope * loss; -inf: any, inf: none is enough
    slope: Array  # (bands,)
    rate: Array  # (bands,) by which `least` rises with latency, about
    other_ms: Array  # (bands,) the most on a second device

    def take(self, rows: Indices) -> "Needs":
        """Return what is needed in some of the bands."""
        own = (self.end_ms, self.least, self.slope, self.rate, self.other_ms)
        return Needs(*(values[rows] for values in own))

    @property
    def is_targeted(self) -> Marks:
        """Tell in which bands a size is needed, (bands,)."""
        targeted: Marks = self.least[:, 0] > -math.inf
        return targeted

    def aimed(self) -> "Needs":
        """Return the same with a size needed where none is."""
        least = np.where(np.isneginf(self.least), 0.0, self.least)
        return replace(self, least=least)

    @property
    def sizes(self) -> Array:
        """Return about the log size needed in each band, 0 if none or any."""
        least = self.least[:, 0]
        return np.where(np.isfinite(least), least, 0.0)

    def less(self, latency: Array) -> Array:
        """Return the least needed size less a weight of latency, (bands,)."""
        with np.errstate(invalid="ignore"):
            slow = np.where(latency[:, None] > 0, latency[:, None] * self.end_ms, 0.0)
        sizes = np.where(self.is_targeted[:, None], self.least, 0.0)
        least: Array = (sizes - slow).min(axis=1)
        return least


@dataclass(frozen=True)
class Bands:
    """Ranges of latency, fastest first, and what accuracies have to be beaten there.

    A front is a staircase: from the latency of each network to that of the next, anything more
    accurate than the first improves it. A band is some of these steps; a step that is missing is
    the last one again.
    """

    begin_ms: Array  # (bands, steps)
    end_ms: Array  # (bands, steps)
    accuracy: Array  # (bands, steps) known in it; -inf before the fastest network
    other_ms: Array  # (bands,) the most on a second device

    @classmethod
    def of(cls, known: Incumbent, most_ms: float) -> "Bands":
        """Make the bands up to a latency."""
        ms = known.ms * (1 - SAME_MS)
        begins, ends = np.append(0.0, ms), np.append(ms, math.inf)
        accuracy = np.append(-math.inf, known.accuracy)
        kept = np.flatnonzero(begins <= most_ms)
        ends = np.minimum(ends[kept], most_ms)
        last = len(kept) - 1
        first = np.unique(np.append([0, last], np.arange(min(1, last), last, STEPS)))
        after = np.append(first[1:], len(kept))
        steps = np.minimum(first[:, None] + np.arange(STEPS), (after - 1)[:, None])
        return cls(begins[steps], ends[steps], accuracy[steps], np.full(len(steps), math.inf))

    def __len__(self) -> int:
        return len(self.begin_ms)

    @property
    def all(self) -> Indices:
        """Return the numbers of all bands."""
        return np.arange(len(self))

    def overlap(self, begin_ms: Array, end_ms: Array) -> Indices:
        """Return the bands that have latencies in common with some ranges."""
        own = self.begin_ms[:, :1] < end_ms
        own &= self.end_ms[:, -1:] > begin_ms
        return np.flatnonzero(own.any(axis=1))

    def needs(self, score: Score, losses: Array, most: float) -> Needs:
        """Return what networks of a family need.

        Args:
            losses: all that networks of the family can have, rising.
            most: log size that none of them passes.
        """
        sizes = score.log_sizes(self.accuracy.ravel(), losses, most)
        sizes = sizes.reshape(*self.accuracy.shape, -1)
        sizes[np.isneginf(self.accuracy)] = -math.inf
        first = np.where(np.isfinite(sizes), sizes, 0.0)[:, 0]
        reached = np.isfinite(sizes[:, 0])  # at the least of all losses, and up to some other
        last = np.maximum(reached.sum(axis=1) - 1, 0)
        rise = first[np.arange(len(first)), last] - first[:, 0]
        slope = rise / np.where(last > 0, losses[last] - losses[0], 1.0)
        least = (sizes - slope[:, None, None] * losses).min(axis=2)
        return Needs(self.end_ms, least, slope, self._rate(least[:, 0]), self.other_ms)

    def _rate(self, least: Array) -> Array:
        """Return how sizes rise with latency, from bands nearby; else in proportion."""
        end = self.end_ms[:, 0]
        rate = 1.0 / self.end_ms[:, -1]
        known = np.flatnonzero(np.isfinite(least) & np.isfinite(end))
        if len(known) > 1:
            last = len(known) - 1
            low = known[np.clip(np.arange(len(known)) - NEARBY, 0, last)]
            high = known[np.clip(np.arange(len(known)) + NEARBY, 0, last)]
            with np.errstate(invalid="ignore", divide="ignore"):
                own = (least[high] - least[low]) / (end[high] - end[low])
            useful = np.isfinite(own) & (own > 0)
            rate[known[useful]] = own[useful]
        return np.where(np.isfinite(self.end_ms[:, -1]), rate, 0.0)
