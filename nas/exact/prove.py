"""The exact front of a space by a latency table and published figures, or how near one is to it.

    proof = prove(ExactProblem(space, components, latency, prior), genes, most_states=10**8)

A network that improves the front that is known must be fast and large enough. Weighing these
conditions gives a bound of all networks at once (`duals`), over the stages of a network one after
the other (`links`), and passes over most of the space at once; of the rest, few networks are near
enough to the bound to be looked at (`halves`, `pairs`).

Latency and accuracy are those of the predictors, before they are rounded to six digits. Rounding
keeps order, so what users see of all networks is the rounded exact front without those that
another beats by then. Networks that differ by less than 1e-10 of latency and 1e-9 points, which
is what the order of a sum may do, are taken as equal.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nas.exact.bands import Bands
from nas.exact.incumbent import SAME_POINTS, Incumbent, undominated
from nas.exact.pairs import AS_WRITTEN
from nas.exact.problem import ExactProblem, Genes
from nas.exact.search import Budget, Corners, PartSearch, Undone
from nas.exact.stages import Context
from predictors.components import Indices
from predictors.worth import Array

# Networks that are judged of one band and context in each round, but for the last: what is found
# in it helps to pass over more in the next.
MOST_OF_BAND = (1 << 19, 1 << 21, 1 << 24)


@dataclass(frozen=True)
class Proof:
    """How a front compares with the best of all networks."""

    kind: Literal["exact", "bound", "none"]
    gap_percent: float  # of hypervolume that the given front lacks, at most; see `gap_percent`
    reference: tuple[float, float]  # ms and accuracy, up to and down to which that is taken
    states: int  # networks that were judged, and as much work on bounds
    genes: Genes  # of the best networks known, fastest first: of the exact front, if that is known
    ms: Array
    accuracy: Array
    missing: Indices  # of these, the ones that nothing given is equal to
    why_none: str = ""


def prove(problem: ExactProblem, genes: Genes, *, most_states: int) -> Proof:
    """Find the exact front, or how far that of `genes` is from it at most.

    Args:
        genes: (networks, genes) of the best networks known; the better, the less there is to do.
        most_states: networks that may be judged. Alone decides what is given up, so the same
            problem has the same proof everywhere.

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
    budget = Budget(most_states)
    ms, accuracy = _improve(problem, known, budget)
    found = known.distinct()
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


def _improve(problem: ExactProblem, known: Incumbent, budget: Budget) -> Corners:
    """Add to the networks known, and return what others could be at best."""
    left: dict[tuple[int, Context], Undone | None] = {
        (number, context): None
        for number, part in enumerate(problem.components.parts)
        for context in Context.all_of(part)
    }
    for most in (*MOST_OF_BAND, budget.most):
        bands = Bands.of(known, problem.limits.latency_ms * (1 + AS_WRITTEN))
        searches: dict[int, PartSearch] = {}
        for (number, context), before in list(left.items()):
            if before and budget.is_spent:
                continue
            if number not in searches:
                searches[number] = PartSearch(problem, number, bands, known, budget)
            chosen = bands.overlap(before.begin_ms, before.end_ms) if before else bands.all
            undone = searches[number].run(context, chosen, most)
            if undone.corners[0].size:
                left[number, context] = undone
            else:
                del left[number, context]
        if not left or budget.is_spent:
            break
    corners = [undone.corners for undone in left.values() if undone]
    nothing = np.zeros(0)
    ms, accuracy = zip((nothing, nothing), *corners, strict=True)
    return np.concatenate(ms), np.concatenate(accuracy)


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
