"""The numbers of many networks at once, by which the archive search compares them.

Every number that is shown is found again for its network alone (`nas.objectives.predicted`); a
test holds both equal.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.objectives.sources import AccuracySource, NoAccuracy
from predictors.batch import Batch
from predictors.components import SpaceComponents
from predictors.latency import LatencyPredictor
from predictors.part_rows import Marks
from predictors.worth import Array
from supernet.cost import BYTES
from supernet.space import Space

Genes = NDArray[np.intp]  # (networks, genes of the space)


@dataclass(frozen=True)
class Numbers:
    """The fields of a `Candidate` for many networks, each (networks,)."""

    latency_ms: Array
    latency_std_ms: Array
    accuracy: Array
    accuracy_std: Array
    params_m: Array
    macs_g: Array
    memory_mb: Array
    latency_extrapolated: Marks
    accuracy_extrapolated: Marks
    accuracy_transferred: Marks


class Evaluator:
    """Evaluates genes by a latency table and an accuracy predictor."""

    def __init__(
        self, space: Space, latency: LatencyPredictor, accuracy: AccuracySource | NoAccuracy
    ) -> None:
        """Lay out the space's components, which takes up to a second."""
        self.space, self.latency, self.accuracy = space, latency, accuracy
        self.components = SpaceComponents(space)

    def numbers(self, genes: Genes) -> Numbers:
        """Return all numbers of networks. Raises TableError where the table has none."""
        return self.numbers_of(self.batch(genes))

    def numbers_of(self, batch: Batch) -> Numbers:
        """Return all numbers of networks. Raises TableError where the table has none."""
        table = self.latency.table
        latency_ms, latency_std_ms, outside = self.latency.judge(batch)
        accuracy = self.accuracy.judge(batch)
        memory = (batch.peak * table.batch + batch.params) * BYTES[table.precision] / 1e6
        return Numbers(
            latency_ms,
            latency_std_ms,
            accuracy.mean,
            accuracy.std,
            batch.params / 1e6,
            batch.all_macs / 1e9,
            memory,
            outside,
            accuracy.extrapolated,
            accuracy.transferred,
        )

    def batch(self, genes: Genes) -> Batch:
        """Return networks as predictors take them."""
        return Batch(self.space, genes, self.components)
