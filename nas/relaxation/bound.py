"""How near a front is to the best of all networks by a predictor that can only be bounded.

    problem = RelaxedProblem(components, latency, predictor)
    gap = bound_front(problem, known, most_work=10**8).gap_percent(known)

For any weight of latency there is a most that networks are predicted at, less what their latency
weighs (`slices`), so accuracies lie below a straight line in latency. The lowest of such lines,
over weights, bands of latency and contexts (resolution, official head), is never below the best of
all networks. How near it is to that depends on the predictor: sums of choices are exact up to what
a hull leaves out, trees are loose. The contexts and bands that may pass what is known by most are
looked at more closely, until that no longer helps or enough is done.
"""

import math
from dataclasses import dataclass

import numpy as np

from nas.exact.incumbent import SAME_MS, SAME_POINTS, Incumbent
from nas.exact.pairs import AS_WRITTEN, SLACK, Limits
from nas.exact.problem import NO_LIMITS
from nas.exact.prove import gap_percent, reference_of
from nas.exact.stages import Context, Stages, links_of, why_unchained
from nas.relaxation.bands import Bounding
from nas.relaxation.slices import Slice
from predictors.components import Indices, SpaceComponents
from predictors.latency import LatencyPredictor
from predictors.relaxation import Relaxable
from predictors.worth import Array

BANDS, PARTS = 16, (64, 16, 4)  # of latency; steps that are looked at together, ever fewer
STEPS = BANDS * PARTS[0]  # at which a bound is told
ANY = 1e6  # points: more than any accuracy
FASTEST_MS = 1e-6  # than which no network is faster, whatever blocks a table lacks
ROUNDS = 1, 4  # of making lines lower: of all bands together, of one or a part of it


@dataclass(frozen=True)
class RelaxedProblem:
    """Networks, and what they are judged by."""

    components: SpaceComponents
    latency: LatencyPredictor
    predictor: Relaxable
    budgets: Limits = NO_LIMITS
    near: bool = False  # only choices that the predictor knows

    @property
    def why_none(self) -> str:
        """Return why there is no bound, whatever the predictor; empty if there is."""
        return next(filter(None, map(why_unchained, self.components.parts)), "")

    def slices(self) -> list[Slice]:
        """Return all networks, laid out. Raises PredictorError where there is no bound."""
        found = []
        for part in self.components.parts:
            stages = [Stages(part, [self.latency], own) for own in links_of(part)]
            found += [
                Slice(stages, context, self.predictor, near=self.near)
                for context in Context.all_of(part)
            ]
        return found


@dataclass(frozen=True)
class FrontBound:
    """A staircase of accuracies that no network is above."""

    begin_ms: Array  # (steps,)
    end_ms: Array
    accuracy: Array  # -inf where there is no network
    knows_all: bool  # whether there are no choices that the predictor knows nothing of
    work: int  # weighted sums of rows

    def gap_percent(self, known: Incumbent) -> float:
        """Return the hypervolume that a front lacks at most, see `nas.exact.prove.gap_percent`."""
        above = np.flatnonzero(self.accuracy > known.exactly(self.end_ms) + SAME_POINTS)
        ms = np.append(known.ms, self.begin_ms[above])
        accuracy = np.append(known.accuracy, self.accuracy[above])
        own = known.ms, known.accuracy
        return gap_percent(own, (ms, accuracy), reference_of(ms, accuracy))


class Ceiling:
    """The most accuracy of any network, by slice and step of latency."""

    def __init__(self, problem: RelaxedProblem, known: Incumbent) -> None:
        """Lay out the slices, and steps up to the latency that may be reached.

        Raises TableError, and PredictorError where there is no bound.
        """
        slices = problem.slices()
        self.knows_all = not any(unseen.any() for own in slices for unseen in own.relaxation.unseen)
        self.slices = [own for own in slices if own.ms_range[0] < math.inf]
        self.work = 0
        self._conditions = [own.conditions(problem.budgets) for own in self.slices]
        most_ms = problem.budgets.latency_ms * (1 + AS_WRITTEN)
        ranges = [own.ms_range for own in self.slices]
        self._first, self._last = np.array(ranges).reshape(-1, 2).T
        first = float(self._first.min(initial=1.0 if not ranges else math.inf))
        first = max(first, FASTEST_MS)
        last = min(float(self._last.max(initial=0.0)), most_ms)
        top = last if last < math.inf else float(known.ms.max(initial=2 * first))
        edges = np.geomspace(first, max(top, first * (1 + SAME_MS)), STEPS + 1)
        self.begin_ms, self.end_ms = edges[:-1] * (1 - SAME_MS), edges[1:] * (1 + SAME_MS)
        self.end_ms[-1] = max(last, self.end_ms[-1])
        self.accuracy = np.full((len(self.slices), STEPS), math.inf)
        self._depth = np.zeros(
            (len(self.slices), BANDS), dtype=np.intp
        )  # how often each was looked at
        self._known = known.exactly(self.end_ms)

    @property
    def best(self) -> Array:
        """Return the most accuracy by step; -inf where there is no network."""
        best: Array = self.accuracy.max(axis=0, initial=-math.inf)
        return best

    def lower(self, most_work: int) -> None:
        """Look at all slices, then closer where it may help until nothing is left to do.

        Or until so much is done.
        """
        steps = np.arange(STEPS).reshape(BANDS, -1)
        for number in range(len(self.slices)):
            self._lower(number, steps, ROUNDS[0])
        while self.slices and self.work < most_work:
            number, band = self._next()
            if number < 0:
                return
            width = PARTS[self._depth[number, band]]
            self._depth[number, band] += 1
            for part in steps[band].reshape(-1, width):
                if (self.accuracy[number, part] > self._known[part] + SAME_POINTS).any():
                    self._lower(number, part[None], ROUNDS[1])

    def _next(self) -> tuple[int, int]:
        """Return the slice and band that may pass what is known by most; -1 where none may."""
        best, known = np.maximum(self.best, -ANY), np.maximum(self._known, -ANY)
        above = np.where(best > known + SAME_POINTS, np.minimum(best, ANY) - known, 0.0)
        worth = np.zeros(self._depth.shape)
        leading = self.accuracy.argmax(axis=0)
        np.add.at(worth, (leading, np.arange(STEPS) // PARTS[0]), above)
        worth = np.where(self._depth < len(PARTS), worth / 8.0**self._depth, 0.0)
        if not worth.any():
            return -1, -1
        number, band = np.unravel_index(worth.argmax(), worth.shape)
        return int(number), int(band)

    def _lower(self, number: int, steps: Indices, rounds: int) -> None:
        """Find the bound of one slice in ranges of steps, (ranges, steps)."""
        own = self.slices[number]
        begin, end = self.begin_ms[steps], self.end_ms[steps]
        limits, middle_ms = own.limits(begin[:, 0], end[:, -1]), np.sqrt(begin[:, 0] * begin[:, -1])
        bounding = Bounding(own, self._conditions[number], limits, middle_ms)
        values = bounding.lines(rounds).at(end)
        is_none = (end < self._first[number]) | (begin > self._last[number]) | np.isneginf(values)
        values = np.where(is_none, 0.0, values)
        accuracy = own.relaxation.accuracy(values + SLACK * (1 + np.abs(values)))
        accuracy = np.where(is_none, -math.inf, accuracy)
        self.accuracy[number, steps] = np.minimum(self.accuracy[number, steps], accuracy)
        self.work += bounding.work


def bound_front(problem: RelaxedProblem, known: Incumbent, *, most_work: int) -> FrontBound:
    """Return what no network is above, as near to the best that are known as is found.

    Args:
        most_work: weighted sums of rows. Alone decides what is given up, so the same problem has
            the same bound everywhere.

    Raises TableError, and PredictorError where there is no bound.
    """
    ceiling = Ceiling(problem, known)
    ceiling.lower(most_work)
    unseen = (own.any() for of in ceiling.slices for own in of.relaxation.unseen)
    return FrontBound(ceiling.begin_ms, ceiling.end_ms, ceiling.best, not any(unseen), ceiling.work)
