"""Pairs of half networks: what all networks of two boxes, or one network of two items, are.

With low and high standing for the least and the most in a box, both of which are the item itself
where boxes hold one:

    latency  >= ms_a + ms_b + ms_per_peak max(peak_a, peak_b)             all low
    accuracy <= score(macs_a + macs_b, blocks_a + .., spread_a + ..)      all high, loss low
    distance >= root(apart_a + apart_b + excess of MACs, of depths against the last width, and of
                the depths on both sides of the cut, each squared)
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.exact.boxes import Boxes
from nas.exact.score import Score
from predictors.accuracy import Prior
from predictors.components import Indices
from predictors.shape import MACS, Box, Numbers
from predictors.worth import Array

DEPTHS = 5  # feature of a network: depths against its last width
SLACK = 1e-9  # relative: what rounding may do to a sum
AS_WRITTEN = 1e-5  # relative, more than what rounding to six digits does
Mask = NDArray[np.bool_]


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
class Pairs:
    """Bounds of networks that are made of a front and a back half of one context."""

    front: Boxes
    back: Boxes
    score: Score
    box: Box  # of the published shapes
    joint: int  # feature: depth after the cut against that before
    limits: Limits
    reach: float  # the most distance from the published shapes that the limits allow
    compared: tuple[float, float]  # parameters, between which the context's head is the nearest
    ms_per_peak: float  # of one element
    mb_per_peak: float  # of one element
    mb_per_param: float

    def latency(self, a: Indices, b: Indices) -> Array:
        """Return the least latency of networks below two nodes, in ms."""
        ms: Array = self.front.low["ms"][a] + self.back.low["ms"][b]
        if self.ms_per_peak:
            ms = ms + self.ms_per_peak * self._peak(a, b)
        return ms

    def accuracy(self, a: Indices, b: Indices) -> Array:
        """Return the most accuracy of networks below two nodes, in points."""
        macs, blocks, spread = (self._high(name, a, b) for name in ("macs", "blocks", "spread"))
        return self.score.accuracy(macs, blocks, spread, self._low("loss", a, b))

    def may_keep(self, a: Indices, b: Indices) -> Mask:
        """Tell where a network below two nodes may keep to the limits and have its own head."""
        least, most = self.compared
        kept: Mask = self._low("compared", a, b) <= most
        kept &= self._high("compared", a, b) >= least
        limits = self.limits
        if limits.latency_ms < math.inf:
            kept &= self.latency(a, b) <= limits.latency_ms * (1 + AS_WRITTEN)
        if limits.params_m < math.inf:
            kept &= self._low("params", a, b) <= limits.params_m * 1e6 * (1 + SLACK)
        if limits.macs_g < math.inf:
            kept &= self._low("all_macs", a, b) <= limits.macs_g * 1e9 * (1 + SLACK)
        if limits.memory_mb < math.inf:
            memory = self.mb_per_peak * self._peak(a, b)
            memory += self.mb_per_param * self._low("params", a, b)
            kept &= memory <= limits.memory_mb * (1 + SLACK)
        if self.reach < math.inf:
            kept &= self.squared_distance(a, b) <= self.reach**2 * (1 + SLACK) + SLACK
        return kept

    def squared_distance(self, a: Indices, b: Indices) -> Array:
        """Return the least squared distance from the published shapes of networks of two nodes."""
        octaves = self.back.low["octaves"][b], self.back.high["octaves"][b]
        low = np.log2(self._low("depths", a, b)) - octaves[1]
        high = np.log2(self._high("depths", a, b)) - octaves[0]
        excess: list[Numbers] = [0.0] * (self.joint + 1)
        excess[MACS] = self._excess(
            MACS, np.log2(self._low("macs", a, b)), np.log2(self._high("macs", a, b))
        )
        excess[DEPTHS] = self._excess(DEPTHS, low, high)
        excess[self.joint] = self._excess(
            self.joint,
            self.back.low["joint"][b] - self.front.high["joint"][a],
            self.back.high["joint"][b] - self.front.low["joint"][a],
        )
        squared: Array = self._low("apart", a, b) + self.score.prior.distance_of(excess)[0] ** 2
        return squared

    def _low(self, name: str, a: Indices, b: Indices) -> Array:
        values: Array = self.front.low[name][a] + self.back.low[name][b]
        return values

    def _high(self, name: str, a: Indices, b: Indices) -> Array:
        values: Array = self.front.high[name][a] + self.back.high[name][b]
        return values

    def _peak(self, a: Indices, b: Indices) -> Array:
        peak: Array = np.maximum(self.front.low["peak"][a], self.back.low["peak"][b])
        return peak

    def _excess(self, feature: int, low: Array, high: Array) -> Array:
        """Return the least excess of a feature that is between two values."""
        least, most = self.box.low[feature], self.box.high[feature]
        return np.maximum(0.0, np.maximum(low - most, least - high))
