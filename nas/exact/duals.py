"""Bounds of all networks of a context at once, by weights of what they are judged by.

A network that improves a front in a band (`nas.exact.bands`) is large enough, fast enough and
keeps to all limits. Any sum of these conditions, each times a weight of at least 0, holds for it
too; logarithms of sums are replaced by tangents, which are never below them, and the most that is
live anywhere by what is live in one link. What is left is a weighted sum over the links of a
network, whose best total is known (`nas.exact.links`): where that is less than the conditions add
up to, no network improves the front. Weights are found by going along one after the other.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from nas.exact.bands import Needs
from nas.exact.chains import Chain, WeightedChain
from nas.exact.links import OTHER_MS, SUMS
from nas.exact.pairs import SLACK, Terms
from predictors.components import Indices
from predictors.part_rows import Marks
from predictors.worth import Array

ROUNDING = 1e-9  # relative: what it may do to a total
# What a point is made of: logarithms of the weight of latency, and of MACs and blocks where the
# tangents touch; then weights of limits, as shares of what is allowed.
LATENCY, MACS, BLOCKS, HEAD, DISTANCE, PARAMS, ALL_MACS, MEMORY, OTHER = range(9)
STEPS = (0.1, 0.2, 0.1, 0.1, 0.02, 0.1, 0.1, 0.1, 0.1)  # first ones along each
FASTER, SLOWER = 1.5, -0.5  # times the step, after one that helped and one that did not
SHARES = (0.1, 0.5, 2.0)  # of one over the latency: first weights to try
OF_OTHER = (0.1, 0.3, 0.5, 0.7, 0.9)  # of these, for the second device
GIGA = math.log(1e9)


@dataclass(frozen=True)
class Weighted:
    """Networks by weighted sums: those that total less than `least` improve nothing."""

    chain: WeightedChain
    least: Array  # (bands,)
    needed: Array  # (bands,) what `least` asks for, size less the weight of latency

    @property
    def excess(self) -> Array:
        """Return by how much the best network is above `least`, (bands,)."""
        return self.chain.best() - self.least


@dataclass(frozen=True)
class Starts:
    """Weights of all bands that were found in one context, to begin with in the next."""

    point: Array  # (bands, numbers of a point), NaN where nothing was found
    peak_link: Indices  # (bands,)

    @classmethod
    def of_nothing(cls, bands: int) -> "Starts":
        """Return starts where nothing was found yet."""
        return cls(np.full((bands, len(STEPS)), np.nan), np.zeros(bands, dtype=np.intp))

    def for_other_head(self) -> "Starts":
        """Return a copy for contexts with another head."""
        point = self.point.copy()
        point[:, HEAD] *= 0
        return Starts(point, self.peak_link.copy())

    def is_known(self, bands: Indices) -> bool:
        """Tell whether something was found for all of some bands."""
        return not bool(np.isnan(self.point[bands, HEAD]).any())


class Dual:
    """The weights of some bands in one context."""

    def __init__(self, terms: Terms, chain: Chain, needs: Needs, bands: Indices) -> None:
        """Take what the networks are judged by, and what they need in which bands."""
        self.terms, self.chain, self.needs, self.bands = terms, chain, needs, bands
        self.point = np.zeros((len(self.bands), len(STEPS)))
        self.step = np.tile(np.array(STEPS), (len(self.bands), 1))
        self.peak_link = np.zeros(len(self.bands), dtype=np.intp)
        blocks = [link.sums[SUMS.index("blocks")] for link in chain.links]
        self.point[:, BLOCKS] = math.log(
            math.sqrt(sum(b.min() for b in blocks) * sum(b.max() for b in blocks))
        )
        self.point[:, MACS] = GIGA + needs.sizes - 0.5 * self.point[:, BLOCKS]

    def take(self, rows: Indices) -> "Dual":
        """Return the weights of some of the bands."""
        found = Dual(self.terms, self.chain, self.needs.take(rows), self.bands[rows])
        found.point, found.step = self.point[rows], self.step[rows]
        found.peak_link = self.peak_link[rows]
        return found

    def where(self, kept: Marks) -> "Dual":
        """Return the weights of the bands that are marked."""
        return self.take(np.flatnonzero(kept))

    def aimed(self) -> "Dual":
        """Return the weights with a size to be reached where none is, to learn what can be."""
        found = self.take(np.arange(len(self.bands)))
        found.needs = self.needs.aimed()
        return found

    def begin(self, starts: "Starts") -> None:
        """Take first weights: what was found in another context, if anything was."""
        if starts.is_known(self.bands):
            self.point, self.peak_link = starts.point[self.bands], starts.peak_link[self.bands]
            return
        with np.errstate(divide="ignore"):
            own = np.log(self.needs.rate)
            relative = -np.log(self.needs.end_ms[:, -1])
        weights = [(own, 0.0), *((relative + math.log(share), 0.0) for share in SHARES)]
        if self.terms.has_other:
            both = product(SHARES, OF_OTHER)
            weights += [(relative + math.log(s * (1 - part)), s * part) for s, part in both]
        excess = np.full(len(own), math.inf)
        best, best_other = own, np.zeros(len(own))
        for rate, other in weights:
            self.point[:, LATENCY], self.point[:, OTHER] = rate, other
            tried = self.weighted().excess
            is_better = tried < excess
            best, best_other = (
                np.where(is_better, *pair) for pair in ((rate, best), (other, best_other))
            )
            excess = np.minimum(tried, excess)
        self.point[:, LATENCY], self.point[:, OTHER] = best, best_other
        if self.terms.has_peak:
            link = self.peak_link.copy()
            for number in range(1, len(self.chain.links)):
                self.peak_link = np.full_like(link, number)
                tried = self.weighted().excess
                link, excess = np.where(tried < excess, number, link), np.minimum(tried, excess)
            self.peak_link = link

    def descend(self, sweeps: int, starts: "Starts | None" = None) -> "Dual":
        """Return the weights of the bands that may be improved, after some steps along each.

        Weights that are found are kept in `starts` too, those of the other bands included.
        """
        if not len(self.bands):
            return self
        current, excess = self, self.weighted().excess
        current.step[:] = STEPS
        for _ in range(sweeps):
            for column in self._columns:
                alive = np.flatnonzero(excess >= 0)
                if len(alive) < len(excess):
                    current._keep(starts)
                    current, excess = current.take(alive), excess[alive]
                if not len(alive):
                    return current
                excess = current._go(column, excess)
        current._keep(starts)
        return current.where(excess >= 0)

    def _keep(self, starts: "Starts | None") -> None:
        if starts is not None:
            starts.point[self.bands], starts.peak_link[self.bands] = self.point, self.peak_link

    def weighted(self) -> Weighted:
        """Return the sums at the current point."""
        terms, point = self.terms, self.point
        latency = np.exp(point[:, LATENCY])
        targeted = self.needs.is_targeted.astype(float)
        weights = dict.fromkeys((*SUMS, OTHER_MS), np.zeros(len(point)))
        weights["ms"] = -latency
        weights["macs"] = targeted * terms.score.of_total * np.exp(-point[:, MACS])
        weights["blocks"] = targeted * 0.5 * np.exp(-point[:, BLOCKS])
        weights["spread"] = targeted
        weights["loss"] = -targeted * self.needs.slope
        constant = terms.score.constant + terms.score.of_total * (point[:, MACS] - 1)
        constant += 0.5 * (point[:, BLOCKS] - 1)
        needed = self.needs.less(latency)
        least = needed - targeted * constant
        head, bound = self._head()
        weights["compared"] = -head
        least -= head * bound
        peak = -latency * terms.ms_per_peak
        for column, names, limit in self._limits:
            own = np.maximum(point[:, column], 0.0) / np.maximum(limit, SLACK)
            for name, share in names.items():
                if name == "peak":
                    peak = peak - share * own
                else:
                    weights[name] = weights[name] - share * own
            least -= own * limit
        least -= ROUNDING * (1 + np.minimum(np.abs(least), 1e100))
        columns = [weights[name] for name in SUMS]
        if terms.has_other:
            columns.append(weights[OTHER_MS])
        if terms.has_peak:
            links = range(len(self.chain.links))
            columns += [np.where(self.peak_link == number, peak, 0.0) for number in links]
        chain = WeightedChain.of(self.chain, np.stack(columns, axis=1))
        return Weighted(chain, least, needed)

    @property
    def _limits(self) -> list[tuple[int, dict[str, float], float | Array]]:
        """Return what must be kept to: its column, what it is made of, and the most of it.

        That of the second device's latency is (bands,).
        """
        terms, limits = self.terms, self.terms.limits
        memory = {"peak": terms.mb_per_peak, "params": terms.mb_per_param}
        known = [
            (DISTANCE, {"apart": 1.0}, terms.reach**2 + SLACK),
            (PARAMS, {"params": 1e-6}, limits.params_m),
            (ALL_MACS, {"all_macs": 1e-9}, limits.macs_g),
            (MEMORY, memory, limits.memory_mb),
        ]
        finite: list[tuple[int, dict[str, float], float | Array]] = [
            (column, names, limit * (1 + SLACK))
            for column, names, limit in known
            if limit < math.inf
        ]
        if terms.other_ms_per_peak is not None:
            other = {OTHER_MS: 1.0, "peak": terms.other_ms_per_peak}
            finite.append((OTHER, other, self.needs.other_ms * (1 + SLACK)))
        return finite

    def _head(self) -> tuple[Array, Array]:
        """Return the weight of parameters above the least or, negative, below the most."""
        low, high = self.terms.compared
        value = self.point[:, HEAD]
        scaled = np.zeros(len(value))
        bound = np.zeros(len(value))
        for mask, limit in ((value > 0, high), (value < 0, low)):
            if 0 < limit < math.inf:
                scaled[mask] = value[mask] / limit
                bound[mask] = limit
        return scaled, bound

    @property
    def _columns(self) -> list[int]:
        """Return what can be gone along."""
        has_head = self.terms.compared != (-math.inf, math.inf)
        limits = [column for column, _, _ in self._limits]
        return [LATENCY, MACS, BLOCKS, *([HEAD] if has_head else []), *limits]

    def _go(self, column: int, excess: Array) -> Array:
        """Try one step of each band along one weight, and keep it where it lowers the excess."""
        before = self.point[:, column].copy()
        self.point[:, column] += self.step[:, column]
        tried = self.weighted().excess
        # Where no size is needed, less weight of latency only seems to help: all scales are alike.
        better = (tried < excess) & (self.needs.is_targeted | (column != LATENCY))
        self.point[:, column] = np.where(better, self.point[:, column], before)
        self.step[:, column] *= np.where(better, FASTER, SLOWER)
        return np.where(better, tried, excess)
