"""The most that networks of a slice are predicted at, at any latency."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.relaxation.slices import Chain, Condition, Slice, Weights
from predictors.part_rows import Marks
from predictors.relaxation import Limits
from predictors.worth import Array

FIRST = 2.0 ** -np.arange(-1.0, 11.0)  # weights of latency, as shares of how values vary
NEAR = 2.0 ** np.linspace(-1.0, 1.0, 9)  # further ones, as shares of the best of these
# What takes as long as so many weighted sums of rows: a row's own sum, and any call.
OWN_WORK, CALL_WORK = 100, 20_000
STEP, SHORTER, SHORTEST = 0.5, 0.5, 0.05  # along logarithms of what lines follow from
ENTRY = 0.1  # of how values vary: the first weight of a condition


@dataclass(frozen=True)
class Lines:
    """Straight lines in latency that the values of no network are above, by band."""

    weights: Array  # (bands, lines) of latency, 0 or more
    values: Array  # (bands, lines) at latency 0

    def at(self, ms: Array) -> Array:
        """Return the lowest line of each band at latencies (bands, latencies)."""
        weights = self.weights[:, :, None]
        with np.errstate(invalid="ignore"):
            rise = np.where(weights > 0, weights * ms[:, None], 0.0)
        lowest: Array = (self.values[:, :, None] + rise).min(axis=1)
        return lowest


@dataclass(frozen=True)
class Point:
    """What lines follow from; each (bands, tries, ...)."""

    slow: Array  # weights of latency
    slopes: Array  # of straight lines for curves
    held: Array  # weights of conditions

    def take(self, tries: Array) -> "Point":
        """Return one try of each band."""
        chosen = np.arange(len(tries)), tries
        return Point(*(own[chosen][:, None] for own in (self.slow, self.slopes, self.held)))

    def where(self, is_own: Marks, other: "Point") -> "Point":
        """Return the points of some bands, of all others those of another."""
        return Point(
            np.where(is_own[:, None], self.slow, other.slow),
            np.where(is_own[:, None, None], self.slopes, other.slopes),
            np.where(is_own[:, None, None], self.held, other.held),
        )


class Bounding:
    """The search for the lowest lines in some bands of a slice."""

    def __init__(
        self, of: Slice, conditions: Sequence[Condition], limits: Limits, middle_ms: Array
    ) -> None:
        """Take limits of totals (bands, totals), and where lines are to be low, (bands,).

        The predictor's own sum is taken of networks that are within the limits of some band.
        """
        self._slice, self._limits, self._ms = of, limits, middle_ms
        least, most = limits
        own = of.relaxation.own((least.min(axis=0), most.max(axis=0)))
        self._chain = Chain(of, own, conditions)
        self._most = np.array([condition.most for condition in conditions])
        self._entry = np.zeros((len(middle_ms), len(conditions)))  # first weights of conditions
        self._peak_link = 0
        self.work = OWN_WORK * of.num_rows

    def lines(self, rounds: int) -> Lines:
        """Return the lines, after so many rounds of making them lower."""
        point, step = self._begin(), STEP
        for _ in range(rounds):
            point, is_better = self._improve(point, step)
            if not is_better:
                step *= SHORTER
                if step < SHORTEST:
                    break
        slow = np.concatenate([point.slow * NEAR, 0 * point.slow], axis=1)
        return Lines(slow, self._values(Point(slow, point.slopes, point.held)))

    def _values(self, point: Point) -> Array:
        """Return the most of values with latencies taken off, (bands, tries)."""
        bands, tries = point.slow.shape

        def flat(own: Array) -> Array:
            return np.broadcast_to(own, (bands, tries, own.shape[2])).reshape(bands * tries, -1)

        slopes, held = flat(point.slopes), flat(point.held)
        least, most = (np.repeat(own, tries, axis=0) for own in self._limits)
        sums, added = self._slice.relaxation.weigh(slopes, (least, most))
        weights = Weights(sums, point.slow.ravel(), held)
        best = self._chain.best(weights, self._peak_link) + added + held @ self._most
        self.work += CALL_WORK + bands * tries * self._slice.num_rows
        return np.asarray(best.reshape(bands, tries))

    def _heights(self, point: Point) -> Array:
        """Return how high lines are where they are to be low, (bands, tries)."""
        return np.asarray(self._values(point) + point.slow * self._ms[:, None])

    def _begin(self) -> Point:
        """Return the best of some weights of latency, without conditions."""
        slopes = self._slice.relaxation.slopes(self._limits)
        held = np.zeros((len(self._ms), len(self._most)))
        sums, _ = self._slice.relaxation.weigh(slopes, self._limits)
        ends = [self._chain.best(Weights(own, 0 * self._ms, held)) for own in (sums, -sums)]
        varies = np.nan_to_num(ends[0] + ends[1], neginf=0.0)
        scale = np.maximum(np.abs(self._most), 1.0)
        self._entry = ENTRY * varies[:, None] / scale
        point = Point((varies / self._ms)[:, None] * FIRST, slopes[:, None], held[:, None])
        links = range(len(self._slice.shapes) if self._slice.ms_per_peak else 1)
        found = []
        for self._peak_link in links:
            found.append(self._heights(point))
        self._peak_link = int(np.argmin([own.min(axis=1).sum() for own in found]))
        best = found[self._peak_link].argmin(axis=1)
        return Point(point.slow[np.arange(len(best)), best][:, None], point.slopes, point.held)

    def _improve(self, point: Point, step: float) -> tuple[Point, bool]:
        """Try a step up and down along everything, and tell whether any helped."""
        numbers = 1 + point.slopes.shape[2] + len(self._most)
        alone = step * np.concatenate([np.zeros((1, numbers)), np.eye(numbers), -np.eye(numbers)])
        tried = self._moved(point, alone[None])
        heights = self._heights(tried)
        helps = heights[:, 1:] < heights[:, :1]
        # All steps that help are mostly better together than one of them.
        signs = np.sign(helps[:, :numbers] * 1.0 - helps[:, numbers:])
        together = self._moved(point, step * signs[:, None])
        is_better = self._heights(together)[:, 0] < heights.min(axis=1)
        best = tried.take(heights.argmin(axis=1))
        return together.where(is_better, best), bool(helps.any())

    def _moved(self, point: Point, steps: Array) -> Point:
        """Return points after steps along logarithms, (bands, tries, 1 + slopes + conditions)."""
        factors, curves = np.exp(steps), point.slopes.shape[2]
        of_held = steps[:, :, 1 + curves :]
        entered = np.maximum(of_held, 0.0) * self._entry[:, None]
        return Point(
            point.slow * factors[:, :, 0],
            point.slopes * factors[:, :, 1 : 1 + curves],
            np.where(point.held > 0, point.held * np.exp(of_held), entered),
        )
