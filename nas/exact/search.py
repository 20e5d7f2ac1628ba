"""The networks of one context that improve a front, found or bounded band by band."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas.exact.bands import Bands
from nas.exact.chains import Chain
from nas.exact.duals import LATENCY, Dual, Starts
from nas.exact.halves import Half, Halves, TooManyError
from nas.exact.incumbent import LEAST_MS, SAME_MS, SAME_POINTS, Known
from nas.exact.links import Link
from nas.exact.pairs import Pairs, Terms
from nas.exact.problem import ExactProblem
from nas.exact.sections import Items, Section
from nas.exact.stages import CUT, Context, Digits
from predictors.components import Indices
from predictors.part_rows import Marks
from predictors.worth import Array

SWEEPS = 4  # along all weights
MORE_SWEEPS = 6  # where there are many networks in a band
MUCH = 0.1  # of log size, above what is needed
MANY = 1 << 19
SUMS_OF_NETWORK = 100  # weighted sums that take as long as a network
CHUNK = 1 << 18  # networks that are judged at once
NEAR_BEST = (0.01, 0.002, 0.0)  # of log size below a bound: which networks are looked at first
MOST_BEST = 1 << 16  # of these, in one band
MOST_HALVES = 1 << 21  # that are made at once, for memory
Corners = tuple[Array, Array]  # ms and accuracy that no network passes


class Budget:
    """Counts the networks that are judged, and says where there are too many."""

    def __init__(self, most_states: int) -> None:
        self.most, self.spent = most_states, 0

    @property
    def is_spent(self) -> bool:
        """Tell whether nothing is left."""
        return self.spent >= self.most

    def work(self, sums: int) -> None:
        """Count weighted sums that were found for bounds, which take less than a network."""
        self.spent = min(self.spent + sums // SUMS_OF_NETWORK, self.most)

    def admit(self, counts: Indices, most: int) -> Marks:
        """Take what there are fewest of while that is allowed, and tell which was taken.

        Args:
            counts: of networks, by band.
            most: for one band.
        """
        order = np.argsort(counts, kind="stable")
        total = np.cumsum(counts[order])
        admitted = np.zeros(len(counts), dtype=np.bool_)
        admitted[order] = (total <= self.most - self.spent) & (counts[order] <= most)
        self.spent += int(counts[admitted].sum())
        return admitted


@dataclass(frozen=True)
class Undone:
    """Where networks of a context may be better than those known."""

    bands: Indices
    begin_ms: Array  # of ranges of latency
    end_ms: Array
    corners: Corners


class PartSearch:
    """Goes through what may improve a front, in the contexts of one part of a space."""

    def __init__(
        self, problem: ExactProblem, number: int, bands: Bands, known: Known, budget: Budget
    ) -> None:
        """Take the number of the part; the networks found are added to those known."""
        self.problem, self.number, self.bands = problem, number, bands
        self.known, self.budget = known, budget
        self._starts: dict[int | None, Starts] = {}
        self.links = problem.links(number)
        self.needs = bands.needs(self.links.score, self.links.losses, self.links.most_log_size)

    def run(self, context: Context, chosen: Indices, most: int) -> Undone:
        """Add the best networks of a context to those known.

        Where a band has more than `most`, only those that promise most are looked at.

        Args:
            chosen: bands.
        """
        terms = self.problem.terms(self.number, context)
        links = self.links.of(context)
        chain = Chain.of(links, other=terms.has_other, peaks=terms.has_peak)
        dual = Dual(terms, chain, self.needs.take(chosen), chosen)
        starts = self._starts_of(context)
        dual.begin(starts)
        dual = dual.descend(SWEEPS, starts)
        self.budget.work(len(chosen) * chain.sums.shape[1] * SWEEPS)
        is_far = dual.weighted().excess > MUCH
        undone = self._settle(terms, dual.where(~is_far), most, is_final=False)
        farther = dual.where(is_far).descend(MORE_SWEEPS)
        undone += self._settle(terms, farther, most, is_final=True)
        for dual in undone:
            self._judge_best(terms, dual)
        nothing = np.zeros(0)
        corners = [(nothing, nothing), *map(self._corners, undone)]
        ms, accuracy = (np.concatenate(own) for own in zip(*corners, strict=True))
        left = np.concatenate([chosen[:0], *(dual.bands for dual in undone)])
        ends = self.bands.begin_ms[left, 0], self.bands.end_ms[left, -1]
        return Undone(left, *ends, (ms, accuracy))

    def _settle(self, terms: Terms, dual: Dual, most: int, *, is_final: bool) -> list[Dual]:
        """Judge the networks of bands, where they are not too many, and return the other bands.

        Unless `is_final`, weights are improved first where there are many.
        """
        if not len(dual.bands):
            return []
        most_halves = min(MOST_HALVES, 4 * most)
        try:
            halves = Halves.of(dual.weighted(), most_halves)
        except TooManyError as error:
            large = error.counts > most_halves
            if large.any():
                undone = self._settle(terms, dual.where(~large), most, is_final=is_final)
                if is_final:
                    return [*undone, dual.where(large)]
                better = dual.where(large).descend(MORE_SWEEPS)
                return undone + self._settle(terms, better, most, is_final=True)
            first = np.cumsum(error.counts) <= error.counts.sum() // 2
            parts = (dual.where(first), dual.where(~first))
            return [
                one for part in parts for one in self._settle(terms, part, most, is_final=is_final)
            ]
        counts = halves.counts(len(dual.bands))
        many = (counts > MANY) & (not is_final)
        done = self.budget.admit(np.where(many, 0, counts), most) & ~many
        self._judge(terms, dual, halves, done)
        undone = [dual.where(~done & ~many)] if (~done & ~many).any() else []
        better = dual.where(many).descend(MORE_SWEEPS)
        return undone + self._settle(terms, better, most, is_final=True)

    def _starts_of(self, context: Context) -> Starts:
        """Return weights to begin with, and to keep what is found in."""
        if context.nearest not in self._starts:
            others = list(self._starts.values())
            own = others[-1].for_other_head() if others else Starts.of_nothing(len(self.bands))
            self._starts[context.nearest] = own
        return self._starts[context.nearest]

    def _judge_best(self, terms: Terms, dual: Dual) -> None:
        """Look at the networks of each band that are nearest to its bound."""
        weighted = dual.weighted()
        best = weighted.chain.best()
        done = np.zeros(len(best), dtype=np.bool_)
        for near in NEAR_BEST:
            least = np.where(done, np.inf, np.maximum(best - near, weighted.least))
            try:
                halves = Halves.of(replace(weighted, least=least), MOST_BEST)
            except TooManyError:
                continue
            admitted = self.budget.admit(halves.counts(len(best)), MOST_BEST) & ~done
            self._judge(terms, dual, halves, admitted)
            done |= admitted

    def _judge(self, terms: Terms, dual: Dual, halves: Halves, done: Marks) -> None:
        """Add the networks of some bands to those known, where none of these is as good."""
        front, back = halves.front, halves.back
        pairs = Pairs(
            terms,
            self._items(terms, self.links.front, dual.chain.links[: CUT + 1], front),
            self._items(terms, self.links.back, dual.chain.links[CUT + 1 :], back),
        )
        begin_ms = self.bands.begin_ms[dual.bands, 0] * (1 - SAME_MS)
        end_ms = self.bands.end_ms[dual.bands, -1] * (1 + SAME_MS)
        other_ms = self.bands.other_ms[dual.bands] * (1 + SAME_MS)
        room_ms = end_ms[front.band] - pairs.front["ms"]
        for a, b in halves.join.chunks(np.flatnonzero(done[front.band]), CHUNK):
            fast = np.flatnonzero(pairs.back["ms"][b] < room_ms[a])
            a, b = a[fast], b[fast]
            if terms.has_other:
                fast = np.flatnonzero(pairs.other_latency(a, b) <= other_ms[front.band[a]])
                a, b = a[fast], b[fast]
            ms = pairs.latency(a, b)
            band = front.band[a]
            kept = np.flatnonzero((ms >= begin_ms[band]) & (ms < end_ms[band]))
            a, b, ms = a[kept], b[kept], ms[kept]
            accuracy = pairs.accuracy(a, b) - SAME_POINTS
            kept = self.known.better(dual.bands[front.band[a]], ms, accuracy)
            kept = kept[pairs.may_keep(a[kept], b[kept])]
            a, b, ms, accuracy = a[kept], b[kept], ms[kept], accuracy[kept]
            while len(a):
                best = self.known.first(ms, accuracy)
                rows = [row[a[best]] for row in front.rows] + [row[b[best]] for row in back.rows]
                self._add(dual.chain.links, rows)
                others = np.delete(np.arange(len(a)), best)
                band = dual.bands[front.band[a[others]]]
                others = others[self.known.better(band, ms[others], accuracy[others])]
                a, b, ms, accuracy = a[others], b[others], ms[others], accuracy[others]

    def _items(self, terms: Terms, section: Section, links: Sequence[Link], half: Half) -> Items:
        """Return the sums of halves, each (halves,)."""
        sizes = [link.sums.shape[1] for link in links]
        number = np.ravel_multi_index(half.rows, sizes)
        distinct, inverse = np.unique(number, return_inverse=True)
        items = section.items(
            _digits(links, np.unravel_index(distinct, sizes)),
            costs=terms.has_costs,
            peak=terms.has_peak,
            shape=terms.reach < math.inf,
        )
        return {name: own[inverse] for name, own in items.items()}

    def _add(self, links: Sequence[Link], rows: Sequence[Indices]) -> None:
        """Add networks to those known, by their rows in all links."""
        space, part = self.problem.space, self.problem.components.parts[self.number]
        dimensions, digits = part.part.dimensions, _digits(links, rows)
        genes = np.zeros((len(rows[0]), len(space.genes)), dtype=np.int64)
        for column, (name, count) in enumerate(space.genes.items()):
            if name == "family":
                genes[:, column] = self.number
            elif name in dimensions:
                genes[:, column] = -(-digits[name] * count // len(dimensions[name]))
        self.known.add(*self.problem.kept(genes))

    def _corners(self, dual: Dual) -> Corners:
        """Return what the networks of bands are at best, at each step of the front."""
        # Where no accuracy is needed, any will do to weigh by.
        aimed = dual.aimed()
        weighted = aimed.weighted()
        begin_ms, end_ms = (own[dual.bands] for own in (self.bands.begin_ms, self.bands.end_ms))
        latency = np.exp(aimed.point[:, LATENCY])[:, None]
        with np.errstate(invalid="ignore"):
            slow = np.where(latency > 0, latency * end_ms, 0.0)
        most = (weighted.excess + weighted.needed)[:, None] + slow
        slope = aimed.needs.slope[:, None]
        accuracy = self.links.score.most_accurate(most, slope, self.links.losses)
        least_ms = max(dual.chain.least("ms") * (1 - SAME_MS), LEAST_MS)
        return np.maximum(begin_ms, least_ms).ravel(), accuracy.ravel()


def _digits(links: Sequence[Link], rows: Sequence[Indices]) -> Digits:
    """Return the choices of networks, or halves, by their rows in links."""
    digits: Digits = {}
    for link, own in zip(links, rows, strict=True):
        digits |= {name: values[own] for name, values in link.digits.items()}
    return digits
