"""Pairs of half networks: what the networks are that they make.

latency  = ms_a + ms_b + ms_per_peak max(peak_a, peak_b), on one device or two
accuracy = score(macs_a + macs_b, blocks_a + blocks_b, spread_a + spread_b, loss_a + loss_b)
distance = root(apart_a + apart_b + excess of MACs, of depths against the last width, and of
           the depths on both sides of the cut, each squared)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lut.table import Table
from lut.terms import HOST_BYTES
from nas.exact.score import Score
from nas.exact.sections import Items
from nas.exact.stages import CUT
from predictors.accuracy import Prior
from predictors.components import Indices
from predictors.part_rows import Marks
from predictors.shape import LAST_STAGES, MACS, SPREAD, Box, Numbers
from predictors.worth import Array
from supernet.cost import BYTES

DEPTHS = 5  # feature of a network: depths against its last width
SLACK = 1e-9  # relative: what rounding may do to a sum
AS_WRITTEN = 1e-5  # relative, more than what rounding to six digits does


@dataclass(frozen=True)
class Limits:
    """What networks must keep to; infinite: nothing."""

    latency_ms: float = math.inf
    params_m: float = math.inf
    macs_g: float = math.inf
    memory_mb: float = math.inf
    accuracy_std: float = math.inf
    distance: float = math.inf  # from the published shapes, in octaves

    def reach(self, prior: Prior) -> float:
        """Return the most distance that networks within all limits can have."""
        # An accuracy's standard deviation is at least hypot(1, distance) times the prior's.
        times = self.accuracy_std * (1 + AS_WRITTEN) / prior.std
        return min(self.distance, math.sqrt(max(times**2 - 1, 0.0)))


@dataclass(frozen=True)
class Terms:
    """What the networks of one context are judged by."""

    score: Score
    box: Box  # of the published shapes
    num_stages: int
    limits: Limits
    reach: float  # the most distance from the published shapes that the limits allow
    compared: tuple[float, float]  # parameters, between which the context's head is the nearest
    ms_per_peak: float  # of one element
    other_ms_per_peak: float | None  # on the second device; None: there is none
    mb_per_peak: float  # of one element
    mb_per_param: float

    @classmethod
    def of(
        cls,
        score: Score,
        num_stages: int,
        limits: Limits,
        compared: tuple[float, float],
        tables: Sequence[Table],
    ) -> "Terms":
        """Take what latency tables, of one device or two, and a family's figures tell."""
        prior, table = score.prior, tables[0]
        per_peak = [own.terms.ms_per_peak_mb * HOST_BYTES / 1e6 for own in tables]
        return cls(
            score,
            prior.boxes[score.family],
            num_stages,
            limits,
            limits.reach(prior),
            compared,
            ms_per_peak=per_peak[0],
            other_ms_per_peak=per_peak[1] if len(per_peak) > 1 else None,
            mb_per_peak=table.batch * BYTES[table.precision] / 1e6,
            mb_per_param=BYTES[table.precision] / 1e6,
        )

    @property
    def has_peak(self) -> bool:
        """Tell whether activations that are live matter."""
        per_peak = self.ms_per_peak + (self.other_ms_per_peak or 0.0)
        return per_peak > 0 or self.limits.memory_mb < math.inf

    @property
    def has_other(self) -> bool:
        """Tell whether there is a second device."""
        return self.other_ms_per_peak is not None

    @property
    def has_costs(self) -> bool:
        """Tell whether parameters and MACs of whole networks matter."""
        limits = self.limits
        return min(limits.params_m, limits.macs_g, limits.memory_mb) < math.inf


@dataclass(frozen=True)
class Pairs:
    """Networks that are made of a front and a back half of one context."""

    terms: Terms
    front: Items
    back: Items

    def latency(self, a: Indices, b: Indices) -> Array:
        """Return latencies, in ms."""
        return self._latency("ms", self.terms.ms_per_peak, a, b)

    def other_latency(self, a: Indices, b: Indices) -> Array:
        """Return latencies on the second device, in ms."""
        return self._latency("other_ms", self.terms.other_ms_per_peak or 0.0, a, b)

    def _latency(self, name: str, ms_per_peak: float, a: Indices, b: Indices) -> Array:
        ms = self._sum(name, a, b)
        if ms_per_peak:
            ms += ms_per_peak * self._peak(a, b)
        return ms

    def accuracy(self, a: Indices, b: Indices) -> Array:
        """Return accuracies, in points."""
        sums = (self._sum(name, a, b) for name in ("macs", "blocks", "spread", "loss"))
        return self.terms.score.accuracy(*sums)

    def may_keep(self, a: Indices, b: Indices) -> Marks:
        """Tell which networks keep to the limits but for rounding, and have their own head."""
        terms, limits = self.terms, self.terms.limits
        compared = self._sum("compared", a, b)
        kept: Marks = (compared >= terms.compared[0]) & (compared <= terms.compared[1])
        if limits.latency_ms < math.inf:
            kept &= self.latency(a, b) <= limits.latency_ms * (1 + AS_WRITTEN)
        if limits.params_m < math.inf:
            kept &= self._sum("params", a, b) <= limits.params_m * 1e6 * (1 + SLACK)
        if limits.macs_g < math.inf:
            kept &= self._sum("all_macs", a, b) <= limits.macs_g * 1e9 * (1 + SLACK)
        if limits.memory_mb < math.inf:
            memory = terms.mb_per_peak * self._peak(a, b)
            memory += terms.mb_per_param * self._sum("params", a, b)
            kept &= memory <= limits.memory_mb * (1 + SLACK)
        if terms.reach < math.inf:
            kept &= self.squared_distance(a, b) <= terms.reach**2 * (1 + SLACK) + SLACK
        return kept

    def squared_distance(self, a: Indices, b: Indices) -> Array:
        """Return squared distances from the published shapes."""
        joint = SPREAD.stop - (LAST_STAGES - 1) + CUT + LAST_STAGES - 1 - self.terms.num_stages
        depths = np.log2(self._sum("depths", a, b)) - self.back["octaves"][b]
        excess: list[Numbers] = [0.0] * (joint + 1)
        for feature, value in (
            (MACS, np.log2(self._sum("macs", a, b))),
            (DEPTHS, depths),
            (joint, self.back["first"][b] - self.front["last"][a]),
        ):
            (excess[feature],) = self.terms.box.excess([value], feature)
        distance = self.terms.score.prior.distance_of(excess)[0]
        squared: Array = self._sum("apart", a, b) + distance**2
        return squared

    def _sum(self, name: str, a: Indices, b: Indices) -> Array:
        values: Array = self.front[name][a] + self.back[name][b]
        return values

    def _peak(self, a: Indices, b: Indices) -> Array:
        peak: Array = np.maximum(self.front["peak"][a], self.back["peak"][b])
        return peak
