"""The numbers of many networks at once, by which the archive search compares them.

Every number that is shown is found again for its network alone (`nas.objectives.predicted`); a
test holds both equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nas.front import NUMBERS, Candidate, DeviceLatency
from nas.objectives.predicted import as_written
from nas.objectives.sources import AccuracySource, NoAccuracy
from predictors.batch import Batch, Predictions
from predictors.components import Indices, SpaceComponents
from predictors.latency import LatencyPredictor
from predictors.part_rows import Marks
from predictors.worth import Array
from supernet.cost import BYTES
from supernet.space import Space

Genes = NDArray[np.intp]  # (networks, genes of the space)
MARKS = ("latency_extrapolated", "accuracy_extrapolated", "accuracy_transferred")


@dataclass(frozen=True)
class LatencyNumbers:
    """Latencies of many networks on one device, each (networks,)."""

    latency_ms: Array
    latency_std_ms: Array
    latency_extrapolated: Marks

    def written(self) -> "LatencyNumbers":
        """Return them with six digits, as one network's are written."""
        return LatencyNumbers(
            _written(self.latency_ms), _written(self.latency_std_ms), self.latency_extrapolated
        )

    def row(self, number: int) -> DeviceLatency:
        """Return those of one network."""
        return DeviceLatency(
            float(self.latency_ms[number]),
            float(self.latency_std_ms[number]),
            bool(self.latency_extrapolated[number]),
        )


@dataclass(frozen=True)
class Numbers:
    """The fields of a `Candidate` for many networks, each (networks,); found when asked for."""

    batch: Batch
    latencies: Sequence[LatencyPredictor]
    source: AccuracySource | NoAccuracy
    is_written: bool = False  # with six digits, as `nas.objectives.predicted` writes them

    def written(self) -> "Numbers":
        """Return the numbers as they are written for one network."""
        return Numbers(self.batch, self.latencies, self.source, is_written=True)

    def at(self, rows: Indices) -> "Numbers":
        """Return the numbers of some of the networks."""
        batch = self.batch
        return replace(self, batch=Batch(batch.space, batch.genes[rows], batch.components))

    def candidates(self, rows: Indices, *, with_energy: bool) -> list[Candidate]:
        """Return some of the networks with all their numbers, those of energy if asked for."""
        decode, genes = self.batch.components.decode, self.batch.genes
        energies = self.energy_mj.tolist() if with_energy else [None] * len(self.batch)
        names = (*NUMBERS, *MARKS)
        columns = [getattr(self, name)[rows].tolist() for name in names]
        return [
            Candidate(
                decode(tuple(genes[row].tolist())),
                **dict(zip(names, values, strict=True)),
                energy_mj=energies[row],
                others=tuple(latencies.row(row) for latencies in self.others),
            )
            for row, *values in zip(rows.tolist(), *columns, strict=True)
        ]

    @property
    def latency_ms(self) -> Array:
        """Return milliseconds per image on the first device."""
        return self._own[0].latency_ms

    @property
    def latency_std_ms(self) -> Array:
        """Return the standard deviation of the latency on the first device."""
        return self._own[0].latency_std_ms

    @property
    def latency_extrapolated(self) -> Marks:
        """Return which latencies are of networks unlike all that the table was checked on."""
        return self._own[0].latency_extrapolated

    @property
    def others(self) -> tuple[LatencyNumbers, ...]:
        """Return the latencies on the second and further devices."""
        return self._own[1:]

    @property
    def accuracy(self) -> Array:
        """Return predicted accuracies in points."""
        return self._accuracy.mean

    @property
    def accuracy_std(self) -> Array:
        """Return their standard deviations in points."""
        return self._accuracy.std

    @property
    def accuracy_extrapolated(self) -> Marks:
        """Return which accuracies are of networks beyond what is known."""
        return self._accuracy.extrapolated

    @property
    def accuracy_transferred(self) -> Marks:
        """Return which accuracies rest on networks of other spaces."""
        return self._accuracy.transferred

    @cached_property
    def params_m(self) -> Array:
        """Return parameters in millions."""
        return self.batch.params / 1e6

    @cached_property
    def macs_g(self) -> Array:
        """Return multiply-adds in billions."""
        return self.batch.all_macs / 1e9

    @cached_property
    def memory_mb(self) -> Array:
        """Return peak memory in MB, that of the device where it is most."""
        tables = [latency.table for latency in self.latencies]
        table = max(tables, key=lambda own: BYTES[own.precision])
        return (self.batch.peak * table.batch + self.batch.params) * BYTES[table.precision] / 1e6

    @cached_property
    def energy_mj(self) -> Array:
        """Return energies in mJ on the first device; NaN where a block's was not measured."""
        energies = self.latencies[0].predict_energy_mj(self.batch)
        return _written(energies) if self.is_written else energies

    @cached_property
    def _own(self) -> tuple[LatencyNumbers, ...]:
        """Return latencies by device. Raises TableError where a table has none."""
        own = tuple(LatencyNumbers(*latency.judge(self.batch)) for latency in self.latencies)
        return tuple(latencies.written() for latencies in own) if self.is_written else own

    @cached_property
    def _accuracy(self) -> Predictions:
        judged = self.source.judge(self.batch)
        if not self.is_written:
            return judged
        return replace(judged, mean=_written(judged.mean), std=_written(judged.std))


class Evaluator:
    """Evaluates genes by latency tables, one for each device, and an accuracy predictor."""

    def __init__(
        self,
        space: Space,
        latencies: Sequence[LatencyPredictor],
        accuracy: AccuracySource | NoAccuracy,
    ) -> None:
        """Lay out the space's components, which takes up to a second."""
        self.space, self.latencies, self.accuracy = space, tuple(latencies), accuracy
        self.components = SpaceComponents(space)

    def numbers(self, genes: Genes) -> Numbers:
        """Return the numbers of networks."""
        return Numbers(Batch(self.space, genes, self.components), self.latencies, self.accuracy)


def _written(values: Array) -> Array:
    """Round to six digits."""
    return np.array([as_written(value) for value in values.tolist()])
