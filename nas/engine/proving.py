"""How far a front is from the best of all networks of its space, by the same predictors."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from nas.engine.archive import Progress
from nas.engine.archive_search import ArchiveSearch
from nas.exact.incumbent import Incumbent
from nas.exact.pairs import Limits
from nas.exact.problem import ExactProblem
from nas.exact.prove import prove
from nas.relaxation.bound import FrontBound, RelaxedProblem, bound_front
from predictors.accuracy import EXTRAPOLATED
from results.errors import PredictorError
from supernet.arch import Arch

Kind = Literal["exact", "bound", "none"]


WORK_OF_STATE = 4  # sums that a bound weighs, in the time of a network that is judged


@dataclass(frozen=True)
class Proven:
    """What is known of the best fronts, one for each archive of a search."""

    kind: Kind  # the weakest
    gap_percent: float | None  # of hypervolume, that the front lacks at most; None: unknown
    states: int
    why_none: str = ""
    by: Literal["search", "relaxation"] = "search"  # of all networks; of bounds of accuracies

    def describe(self) -> str:
        """Return one line for the terminal."""
        if self.kind == "exact":
            return "proof: the exact front by these predictors, no network was missed"
        if self.kind == "none":
            return f"proof: none, {self.why_none}"
        within = f"proof: within {self.gap_percent:.2g} % of hypervolume of the best by these "
        if self.by == "relaxation":
            return (
                f"{within}predictors, by relaxation: no network is above a bound of their "
                "accuracies, which may be loose; --prove always makes it tighter, --freeze too"
            )
        return (
            f"{within}predictors, after {self.states:,} networks that may be better; --prove "
            "always looks at more, --freeze leaves fewer"
        )


def prove_archives(
    search: ArchiveSearch, progress: Progress, most_states: int
) -> tuple[Proven, list[Arch]]:
    """Return what is proven of a search's archives, and networks that they lack.

    Args:
        most_states: networks that may be judged for each archive, or as much work on bounds.
    """
    if progress.is_complete:
        return Proven("exact", 0.0, 0), []
    # A least accuracy takes away the lower end of a front, and nothing from what is left.
    upper = [limit for limit in search.limits if not limit.is_least]
    limits = Limits(**{limit.measure.quantity.field: limit.limit for limit in upper})
    accuracy = search.evaluator.accuracy
    if accuracy.prior is not None:
        return _by_search(search, progress, limits, most_states)
    if accuracy.relaxable is not None:
        return _by_relaxation(search, progress, limits, most_states), []
    why = "accuracies are neither those of published figures nor of a predictor with a bound"
    return Proven("none", None, 0, why), []


def _by_search(
    search: ArchiveSearch, progress: Progress, limits: Limits, most_states: int
) -> tuple[Proven, list[Arch]]:
    """Return what is proven of archives by published figures, and networks that they lack."""
    evaluator = search.evaluator
    assert evaluator.accuracy.prior is not None
    kinds: list[Kind] = []
    missing: list[Arch] = []
    gaps, states, why = [], 0, ""
    problem = ExactProblem(
        evaluator.space, evaluator.components, evaluator.latencies[0], evaluator.accuracy.prior
    )
    for archive, distance in zip(progress.archives, (math.inf, EXTRAPOLATED), strict=False):
        own = replace(problem, limits=replace(limits, distance=distance))
        proof = prove(own, archive.genes, most_states=most_states)
        kinds.append(proof.kind)
        states += proof.states
        why = proof.why_none or why
        gaps.append(proof.gap_percent)
        missing += [evaluator.space.decode(row) for row in proof.genes[proof.missing].tolist()]
    if "none" in kinds:
        return Proven("none", None, states, why), missing
    if "bound" in kinds:
        return Proven("bound", max(gaps), states), missing
    return Proven("exact", 0.0, states), missing


def _by_relaxation(
    search: ArchiveSearch, progress: Progress, limits: Limits, most_states: int
) -> Proven:
    """Return how far archives are at most from the best, by a predictor that has a bound.

    Limits that are no sums over networks, on memory and standard deviations, are not held to: the
    best of more networks is no worse.
    """
    evaluator = search.evaluator
    assert evaluator.accuracy.relaxable is not None
    problem = RelaxedProblem(
        evaluator.components, evaluator.latencies[0], evaluator.accuracy.relaxable, limits
    )
    if problem.why_none:
        return Proven("none", None, 0, problem.why_none)
    bound: FrontBound | None = None
    gaps, work = [], 0
    for archive, near in zip(progress.archives, (False, True), strict=False):
        known = Incumbent(archive.genes.shape[1])
        known.add(archive.costs[:, 0], -archive.costs[:, 1], archive.genes)
        if bound is None or not bound.knows_all:
            try:
                own = replace(problem, near=near)
                bound = bound_front(own, known, most_work=WORK_OF_STATE * most_states)
            except PredictorError as error:
                return Proven("none", None, 0, str(error))
            work += bound.work
        gaps.append(bound.gap_percent(known))
    kind: Kind = "bound" if max(gaps) > 0 else "exact"
    return Proven(kind, max(gaps), work // WORK_OF_STATE, by="relaxation")
