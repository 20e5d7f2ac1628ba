"""Networks of one part and context as chains of links, and the best of their weighted sums."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lut.terms import HOST_BYTES
from nas.exact.pairs import SLACK
from nas.exact.pairs import Limits as Budgets
from nas.exact.stages import Context, Digits, Stages
from predictors.part_rows import Marks
from predictors.relaxation import Limits, Link, Relaxable
from predictors.worth import Array

RATES = 2.0 ** np.arange(-7, 7)  # of latency beside a total, as shares of how both vary


@dataclass(frozen=True)
class Weights:
    """What networks are weighed by; each (weights, ...)."""

    sums: Array  # of the predictor's own sum and of its totals, (weights, 1 + totals)
    slow: Array  # of latency, which is taken off, (weights,)
    held: Array  # of conditions, which are taken off, (weights, conditions)


@dataclass(frozen=True)
class Condition:
    """What networks keep to: a sum over links that is at most `most`."""

    sums: Sequence[Array]  # by link, (rows,)
    most: float


class Slice:
    """The networks of one part in one context."""

    def __init__(
        self, stages: Sequence[Stages], context: Context, predictor: Relaxable, *, near: bool
    ) -> None:
        """Lay out all links. `near`: leave out choices that the predictor knows nothing of.

        Raises PredictorError where there is no bound.
        """
        laid_out = [own.all_choices(context) for own in stages]
        self.stages, self.context = stages, context
        self.shapes = [shape for shape, _ in laid_out]
        self.digits: list[Digits] = [digits for _, digits in laid_out]
        self.rows = [own.rows(digits) for own, digits in zip(stages, self.digits, strict=True)]
        self.relaxation = predictor.relax([self._link(number) for number in range(len(stages))])
        unseen = self.relaxation.unseen
        self.is_left_out = unseen if near else [np.zeros_like(own) for own in unseen]
        told = list(zip(stages, self.rows, self.digits, strict=True))
        self.ms = [own.ms(rows)[0] for own, rows, _ in told]
        self.ms_per_peak = stages[0].latencies[0][0].terms.ms_per_peak_mb * HOST_BYTES / 1e6
        self.peaks = [own.least_peak(digits) for own, _, digits in told if self.ms_per_peak]

    def _link(self, number: int) -> Link:
        own = self.stages[number]
        names = {*own.names, *(() if number else ("resolution",))}
        within = {f"stage{n}" if n else "stem" for n in own.stages}
        return Link(self.rows[number], frozenset(names), frozenset(within), number == 0)

    @property
    def num_rows(self) -> int:
        """Return the number of rows of all links."""
        return sum(map(len, self.ms))

    @cached_property
    def bare(self) -> "Chain":
        """Return the chain of totals and latencies, without the predictor's own sum."""
        return Chain(self, [np.zeros(len(ms)) for ms in self.ms], ())

    @cached_property
    def ms_range(self) -> tuple[float, float]:
        """Return the least and the most latency of networks; inf where that is not known."""
        nothing = np.zeros((2, 1 + self.relaxation.num_totals))
        best = self.bare.best(Weights(nothing, np.array([1.0, -1.0]), nothing[:, :0]))
        return -float(best[0]), np.inf if self.ms_per_peak else float(best[1])

    def conditions(self, budgets: Budgets) -> list[Condition]:
        """Return what networks of the context keep to; of the budgets, those that are sums."""
        part = self.stages[0].part
        least, most = self.context.compared(part)
        compared, params, macs = (
            [rows.total(column) for rows in self.rows]
            for column in (part.params_compared, part.params, part.all_macs)
        )
        found = [
            Condition([-own for own in compared], -least),
            Condition(compared, most),
            Condition(params, budgets.params_m * 1e6),
            Condition(macs, budgets.macs_g * 1e9),
        ]
        return [
            Condition(own.sums, own.most + SLACK * abs(own.most))
            for own in found
            if abs(own.most) < np.inf
        ]

    def limits(self, begin_ms: Array, end_ms: Array) -> Limits:
        """Return the least and most of totals of networks in bands of latency, (bands, totals)."""
        count = self.relaxation.num_totals
        if not count:
            return np.zeros((len(begin_ms), 0)), np.zeros((len(begin_ms), 0))
        sums = np.concatenate([np.zeros((count, 1)), np.eye(count)], axis=1)
        tiled = np.repeat(sums, len(RATES), axis=0)

        def best(sums: Array, slow: Array) -> Array:
            return self.bare.best(Weights(sums, slow, sums[:, :0]))

        least, most = -best(-sums, np.zeros(count)), best(sums, np.zeros(count))
        low, high = self.ms_range
        if low < high < np.inf:
            rates = np.outer((most - least) / (high - low), RATES).ravel()
            # A total, with a weight of what the latency is above or below its limit, is no less.
            above = -best(-tiled, -rates) + np.outer(begin_ms, rates)
            below = best(tiled, rates) + np.outer(end_ms, rates)
            shape = len(begin_ms), count, len(RATES)
            above, below = above.reshape(shape).max(axis=2), below.reshape(shape).min(axis=2)
            least, most = np.maximum(least, above), np.minimum(most, below)
        else:
            least, most = (np.tile(own, (len(begin_ms), 1)) for own in (least, most))
        slack = SLACK * (np.abs(least) + np.abs(most))
        least, most = least - slack, most + slack
        return np.minimum(least, most), np.maximum(least, most)


class Chain:
    """The sums of a slice's rows, laid out to be weighed."""

    def __init__(self, of: Slice, own: Sequence[Array], conditions: Sequence[Condition]) -> None:
        """Take the predictor's own sum, by link, (rows,); -inf for rows that no network has."""
        self._slice = of
        self._left_out: list[Marks] = [
            left | np.isneginf(sums) for left, sums in zip(of.is_left_out, own, strict=True)
        ]
        self._numbers = [
            np.stack([
                np.where(self._left_out[number], 0.0, own[number]),
                *of.relaxation.totals[number],
                -ms,
                *(-condition.sums[number] for condition in conditions),
            ])
            for number, ms in enumerate(of.ms)
        ]  # fmt: skip

    def values(self, weights: Weights, peak_link: int = 0) -> list[Array]:
        """Return weighted sums of all rows, by link, (weights, rows).

        `peak_link` is where activations count as the most that are live: no less are.
        """
        together = np.concatenate([weights.sums, weights.slow[:, None], weights.held], axis=1)
        found = [together @ numbers for numbers in self._numbers]
        if self._slice.ms_per_peak:
            live = np.maximum(weights.slow, 0.0) * self._slice.ms_per_peak
            found[peak_link] -= np.outer(live, self._slice.peaks[peak_link])
        for values, left_out in zip(found, self._left_out, strict=True):
            if left_out.any():
                values[:, left_out] = -np.inf
        return found

    def best(self, weights: Weights, peak_link: int = 0) -> Array:
        """Return the most of weighted sums over whole networks, (weights,)."""
        total = np.zeros((len(weights.slow), 1))
        told = zip(self.values(weights, peak_link), self._slice.shapes, strict=True)
        for values, (_, before, after) in told:
            rest = values.shape[1] // (before * after)
            grouped = values.reshape(len(total), rest, before, after).max(axis=1)
            total = (total[:, :, None] + grouped).max(axis=1)
        best: Array = total.max(axis=1)
        return best
