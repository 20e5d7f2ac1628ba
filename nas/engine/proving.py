"""How far a front is from the best of all networks of its space, by the same predictors."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from nas.engine.archive import Progress
from nas.engine.archive_search import ArchiveSearch
from nas.exact.pairs import Limits
from nas.exact.problem import ExactProblem
from nas.exact.prove import prove
from predictors.accuracy import EXTRAPOLATED
from supernet.arch import Arch

Kind = Literal["exact", "bound", "none"]


@dataclass(frozen=True)
class Proven:
    """What is known of the best fronts, one for each archive of a search."""

    kind: Kind  # the weakest
    gap_percent: float | None  # of hypervolume, that the front lacks at most; None: unknown
    states: int
    why_none: str = ""

    def describe(self) -> str:
        """Return one line for the terminal."""
        if self.kind == "exact":
            return "proof: the exact front by these predictors, no network was missed"
        if self.kind == "bound":
            return (
                f"proof: within {self.gap_percent:.2g} % of hypervolume of the best by these "
                f"predictors, after {self.states:,} networks that may be better; --prove always "
                "looks at more, --freeze leaves fewer"
            )
        return f"proof: none, {self.why_none}"


def prove_archives(
    search: ArchiveSearch, progress: Progress, most_states: int
) -> tuple[Proven, list[Arch]]:
    """Return what is proven of a search's archives, and networks that they lack.

    Args:
        most_states: networks that may be judged for each archive.
    """
    if progress.is_complete:
        return Proven("exact", 0.0, 0), []
    evaluator = search.evaluator
    prior = evaluator.accuracy.prior
    if prior is None:
        why = "accuracies are not those of published figures"
        return Proven("none", None, 0, why), []
    # A least accuracy takes away the lower end of a front, and nothing from what is left.
    upper = [limit for limit in search.limits if not limit.is_least]
    limits = Limits(**{limit.measure.quantity.field: limit.limit for limit in upper})
    kinds: list[Kind] = []
    missing: list[Arch] = []
    gaps, states, why = [], 0, ""
    problem = ExactProblem(evaluator.space, evaluator.components, evaluator.latencies[0], prior)
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
