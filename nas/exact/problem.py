"""A space whose exact front is asked for, and what its networks are judged by."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nas.exact.links import Links
from nas.exact.pairs import AS_WRITTEN, Limits, Terms
from nas.exact.stages import Context, why_unchained
from nas.objectives.predicted import as_written
from predictors.accuracy import Prior
from predictors.batch import Batch
from predictors.components import SpaceComponents
from predictors.latency import LatencyPredictor
from predictors.part_rows import Marks
from predictors.worth import Array
from supernet.cost import BYTES
from supernet.space import Space

NO_LIMITS = Limits()
Genes = NDArray[np.integer]


@dataclass(frozen=True)
class ExactProblem:
    """A space, what its networks are judged by, and what they must keep to.

    What is laid out of the space is shared with problems that differ in limits alone, made by
    `dataclasses.replace`.
    """

    space: Space
    components: SpaceComponents
    latency: LatencyPredictor
    prior: Prior
    limits: Limits = NO_LIMITS
    other: LatencyPredictor | None = None  # of a second device, which limits of its own hold for
    _links: dict[int, Links] = field(default_factory=dict, compare=False, repr=False)

    def evaluate(self, genes: Genes) -> tuple[Array, Array, Marks]:
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
        for number, part in enumerate(self.components.parts):
            if not self.links(number).score.is_monotone:
                return "the accuracy does not rise with all sums over a network"
            if why := why_unchained(part):
                return why
        return ""

    def links(self, number: int) -> Links:
        """Return the links of a part's networks, made once."""
        if number not in self._links:
            part = self.components.parts[number]
            self._links[number] = Links(part, self._latencies, self.prior)
        return self._links[number]

    def terms(self, number: int, context: Context) -> Terms:
        """Return what the networks of a context are judged by."""
        part = self.components.parts[number]
        score, compared = self.links(number).score, context.compared(part)
        tables = [latency.table for latency in self._latencies]
        return Terms.of(score, len(part.places), self.limits, compared, tables)

    @property
    def _latencies(self) -> tuple[LatencyPredictor, ...]:
        return (self.latency, self.other) if self.other else (self.latency,)


def written_within(values: Array, limit: float) -> Marks:
    """Tell which numbers are within a limit once they are rounded to six digits."""
    within: Marks = values <= limit
    if limit == math.inf:
        return within
    for near in np.flatnonzero(np.abs(values - limit) <= AS_WRITTEN * limit):
        within[near] = as_written(float(values[near])) <= limit
    return within
