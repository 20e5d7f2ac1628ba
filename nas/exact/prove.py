"""The exact front of a space by a latency table and published figures, or how near one is to it.

    proof = prove(ExactProblem(space, components, latency, prior), genes, most_states=10**8)

A network is made of two halves (`halves`) whose sums tell its latency and accuracy (`pairs`).
Boxes around halves (`boxes`) bound what all networks made of them could be, and where that beats
no network known they are passed over (`descent`), so few of billions of networks are looked at.

Latency and accuracy are those of the predictors, before they are rounded to six digits. Rounding
keeps order, so what users see of all networks is the rounded exact front without those that
another beats by then. Networks that differ by less than 1e-10 of latency and 1e-9 points, which
is what the order of a sum may do, are taken as equal.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lut.terms import HOST_BYTES
from nas.exact.boxes import Boxes, Layout
from nas.exact.descent import Corners, Descent
from nas.exact.halves import CUT, Context, Digits, Halves, Items
from nas.exact.incumbent import LEAST_MS, SAME_POINTS, Incumbent, undominated
from nas.exact.pairs import AS_WRITTEN, SLACK, Limits, Mask, Pairs
from nas.objectives.predicted import as_written
from predictors.accuracy import Prior
from predictors.batch import Batch
from predictors.components import PICTURE, Indices, PartComponents, SpaceComponents, width_column
from predictors.latency import LatencyPredictor
from predictors.shape import LAST_STAGES, SPREAD
from predictors.worth import Array
from supernet.cost import BYTES
from supernet.space import Space

# Shares of latency within which what is better is passed over, where states run out: in turn.
TOLERANCES = (0.003, 0.03)
MOST_HALVES = 1 << 20  # of one context, for memory
NO_LIMITS = Limits()
Genes = NDArray[np.integer]


@dataclass(frozen=True)
class ExactProblem:
    """A space, what its networks are judged by, and what they must keep to."""

    space: Space
    components: SpaceComponents
    latency: LatencyPredictor
    prior: Prior
    limits: Limits = NO_LIMITS

    def evaluate(self, genes: Genes) -> tuple[Array, Array, Mask]:
        """Return ms, accuracies and which keep to all limits, each (networks,).

        Raises TableError.
        """
        batch = Batch(self.space, genes, self.components)
        ms, _, _ = self.latency.judge(batch)
        judged, limits, table = self.prior.judge(batch), self.limits, self.latency.table
        kept = judged.distance <= limits.distance
        kept &= written_within(ms, limits.latency_ms)
        kept &= written_within(judged.std, limits.accuracy_std)
        kept &= batch.params / 1e6 <= limits.params_m
        kept &= batch.all_macs / 1e9 <= limits.macs_g
        if limits.memory_mb < math.inf:
            elements = batch.peak * table.batch + batch.params
            kept &= elements * BYTES[table.precision] / 1e6 <= limits.memory_mb
        return ms, judged.mean, kept

    def kept(self, genes: Genes) -> tuple[Array, Array, Genes]:
        """Return ms, accuracies and genes of the networks that keep to all limits."""
        ms, accuracy, kept = self.evaluate(genes)
        return ms[kept], accuracy[kept], genes[kept]

    @property
    def unprovable(self) -> str:
        """Return why nothing can be proven; empty if it can."""
        for part in self.components.parts:
            halves = self.halves(part)
            if not halves[0].score.is_monotone:
                return "the accuracy does not rise with all sums over a network"
            if any(PICTURE < stage < CUT for stage in part.tapped):
                return f"the head reads a stage before stage {CUT}"
            most = max(half.count for half in halves)
            if most > MOST_HALVES:
                return f"{most:,} half networks of one resolution are too many; freeze choices"
        return ""

    def halves(self, part: PartComponents) -> tuple[Halves, Halves]:
        """Return what makes front and back halves of a part."""
        return (
            Halves(part, self.latency, self.prior, front=True),
            Halves(part, self.latency, self.prior, front=False),
        )


@dataclass(frozen=True)
class Proof:
    """How a front compares with the best of all networks."""

    kind: Literal["exact", "bound", "none"]
    gap_percent: float  # of hypervolume that the given front lacks, at most; see `gap_percent`
    reference: tuple[float, float]  # ms and accuracy, up to and down to which that is taken
    states: int  # pairs of boxes that were judged
    genes: Genes  # of the best networks known, fastest first: of the exact front, if that is known
    ms: Array
    accuracy: Array
    missing: Indices  # of these, the ones that nothing given is equal to
    why_none: str = ""


def prove(problem: ExactProblem, genes: Genes, *, most_states: int) -> Proof:
    """Find the exact front, or how far that of `genes` is from it at most.

    Args:
        genes: (networks, genes) of the best networks known; the better, the less there is to do.
        most_states: pairs of boxes that may be judged. Alone decides what is given up, so the
            same problem has the same proof everywhere.

    Raises TableError where the table has no latency for a network, PredictorError where nothing
    was published for a family.
    """
    given, known = (Incumbent(len(problem.space.genes)) for _ in range(2))
    for front in (given, known):
        front.add(*problem.kept(genes))
    if why_none := problem.unprovable:
        nothing = np.zeros(0, dtype=np.intp)
        own = known.genes, known.ms, known.accuracy
        nowhere = math.nan, math.nan
        return Proof("none", math.nan, nowhere, 0, *own, nothing, why_none)
    passed: list[Corners] = [(np.zeros(0), np.zeros(0))]
    contexts = [
        (number, context)
        for number, part in enumerate(problem.components.parts)
        for context in Context.all_of(part)
    ]
    searches = [PartSearch(problem, number, known) for number in range(len(problem.space.parts))]
    budget = Budget(most_states, len(contexts))
    for number, context in contexts:
        passed += searches[number].search(context, budget)
    found = known.distinct()
    ms, accuracy = (np.concatenate(own) for own in zip(*passed, strict=True))
    above = np.flatnonzero(accuracy > found.exactly(ms) + SAME_POINTS)
    upper = np.append(found.ms, ms[above]), np.append(found.accuracy, accuracy[above])
    reference = reference_of(*upper)
    missing = np.flatnonzero(given.exactly(found.ms) < found.accuracy - SAME_POINTS)
    return Proof(
        "bound" if len(above) else "exact",
        gap_percent((given.ms, given.accuracy), upper, reference),
        reference,
        budget.spent,
        found.genes,
        found.ms,
        found.accuracy,
        missing,
    )


class Budget:
    """Shares pairs of boxes out to contexts.

    Half of them go to exact descents, first come first served; the other half is divided evenly,
    for bounds where that is not enough.
    """

    def __init__(self, most_states: int, contexts: int) -> None:
        self._exact = most_states // 2
        self._rest, self._contexts = most_states - self._exact, contexts
        self.spent = 0

    def attempts(self) -> Iterator[tuple[float, int]]:
        """Yield tolerances for the descents of one context, and how many pairs each may judge."""
        share = self._rest // self._contexts // len(TOLERANCES)
        yield 0.0, max(self._exact - self.spent, 0)
        yield from ((tolerance, share) for tolerance in TOLERANCES)

    def close(self, states: int) -> None:
        """Count what a context took."""
        self.spent += states


class PartSearch:
    """Goes through the contexts of one part of a space."""

    def __init__(self, problem: ExactProblem, number: int, known: Incumbent) -> None:
        self.problem, self.number, self.known = problem, number, known
        self.part = problem.components.parts[number]
        self.halves = problem.halves(self.part)
        self._layouts: dict[tuple[bool, int, int], Layout] = {}
        self._fronts: dict[tuple[int, int], tuple[Digits, Boxes]] = {}

    def search(self, context: Context, budget: Budget) -> list[Corners]:
        """Add the best networks of a context to those known; return what was passed over."""
        front, back = (self._boxes(half, context) for half in self.halves)
        if front is None or back is None:
            return []
        descent = Descent(
            self._pairs(context, front[1], back[1]),
            self.known,
            lambda a, b: self._evaluate(front[0], back[0], a, b),
        )
        for tolerance, most_states in budget.attempts():
            passed, is_complete = descent.run(tolerance, most_states)
            if is_complete:
                break
        budget.close(descent.states)
        return passed

    def _boxes(self, half: Halves, context: Context) -> tuple[Digits, Boxes] | None:
        """Return the choices of all halves of a context, and their tree; None if there are none."""
        key = context.resolution, context.width
        if half.front and not set(half.names) & set(self.part.follows) and key in self._fronts:
            return self._fronts[key]
        digits = half.digits(context)
        limits, terms = self.problem.limits, self.problem.latency.table.terms
        reach = limits.reach(self.problem.prior)
        items = half.items(
            digits,
            costs=min(limits.params_m, limits.macs_g, limits.memory_mb) < math.inf,
            peak=limits.memory_mb < math.inf or terms.ms_per_peak_mb > 0,
            shape=reach < math.inf,
        )
        if reach < math.inf:
            within = np.flatnonzero(items["apart"] <= reach**2 * (1 + SLACK) + SLACK)
            digits = {name: own[within] for name, own in digits.items()}
            items = {name: own[within] for name, own in items.items()}
            if not len(within):
                return None
        found = digits, Boxes.of(items, self._layout(half, context, items))
        if half.front:
            self._fronts = {key: found}
        return found

    def _layout(self, half: Halves, context: Context, items: Items) -> Layout:
        """Return the layout of a first context with as many halves, similar enough for all."""
        key = half.front, context.width, len(items["ms"])
        if key not in self._layouts:
            # About how much log size, or log latency, hangs on each: of that, how fast a descent
            # is, and nothing else.
            ms = np.maximum(items["ms"], LEAST_MS)
            values = [0.5 * np.log(ms), 0.25 * np.log(items["macs"])]
            values += [0.25 * np.log(items["blocks"]), items["spread"], 4 * items["loss"]]
            if "peak" in items:
                values += [0.5 * np.log(ms + self._ms_per_peak * items["peak"])]
            if "apart" in items:
                values += [0.02 * items["apart"], 0.02 * items["joint"]]
            self._layouts[key] = Layout.of(np.stack(values))
        return self._layouts[key]

    @property
    def _ms_per_peak(self) -> float:
        return self.problem.latency.table.terms.ms_per_peak_mb * HOST_BYTES / 1e6

    def _pairs(self, context: Context, front: Boxes, back: Boxes) -> Pairs:
        prior, table, part = self.problem.prior, self.problem.latency.table, self.part
        second = len(part.places) - LAST_STAGES + 2  # stage whose depth is compared first
        return Pairs(
            front,
            back,
            self.halves[0].score,
            prior.boxes[part.part.family],
            joint=SPREAD.stop - (LAST_STAGES - 1) + CUT + 1 - second,
            limits=self.problem.limits,
            reach=self.problem.limits.reach(prior),
            compared=context.compared(part),
            ms_per_peak=self._ms_per_peak,
            mb_per_peak=table.batch * BYTES[table.precision] / 1e6,
            mb_per_param=BYTES[table.precision] / 1e6,
        )

    def _evaluate(self, front: Digits, back: Digits, a: Indices, b: Indices) -> None:
        """Add networks made of some halves to those known."""
        space, dimensions = self.problem.space, self.part.part.dimensions
        digits = {name: front[name][a] for name in self.halves[0].names}
        digits |= {name: back[name][b] for name in self.halves[1].names}
        digits |= {name: front[name][a] for name in ("resolution", width_column(CUT))}
        genes = np.zeros((len(a), len(space.genes)), dtype=np.int64)
        for column, (name, count) in enumerate(space.genes.items()):
            if name == "family":
                genes[:, column] = self.number
            elif name in digits:
                genes[:, column] = -(-digits[name] * count // len(dimensions[name]))
        self.known.add(*self.problem.kept(genes))


def written_within(values: Array, limit: float) -> Mask:
    """Tell which numbers are within a limit once they are rounded to six digits."""
    within: Mask = values <= limit
    for near in np.flatnonzero(np.abs(values - limit) <= AS_WRITTEN * limit):
        within[near] = as_written(float(values[near])) <= limit
    return within


def reference_of(ms: Array, accuracy: Array) -> tuple[float, float]:
    """Return the latency of a front's slowest network and the accuracy of its fastest."""
    if not len(ms):
        return math.nan, math.nan  # nothing keeps to all limits
    front = undominated(ms, accuracy)
    return float(ms[front[-1]]), float(accuracy[front[0]])


def gap_percent(given: Corners, better: Corners, reference: tuple[float, float]) -> float:
    """Return how much of the hypervolume of some networks worse ones lack, in percent.

    Over log latency, up to the latency and down to the accuracy of `reference`.
    """
    most_ms, least = reference

    def volume(ms: Array, accuracy: Array) -> float:
        front = undominated(ms, accuracy)
        saved = np.maximum(np.log(most_ms / ms[front]), 0.0)
        gained = np.diff(np.maximum(accuracy[front], least), prepend=least)
        return float(saved @ gained)

    whole = volume(*better)
    return 100.0 * (1.0 - volume(*given) / whole) if whole else 0.0
