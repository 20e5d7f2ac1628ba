"""The halves of networks of one context that may improve a front, band by band.

A half is a row of each of its links. It is kept in a band where its weighted sums, with the best
of what is before and after it, total enough (`nas.exact.duals`); a front and a back half that
agree in the width between them make a network, where theirs total enough together.
"""

from dataclasses import dataclass

import numpy as np

from nas.exact.chains import at
from nas.exact.duals import Weighted
from nas.exact.joins import ROUNDING, Join
from nas.exact.stages import CUT
from predictors.components import Indices
from predictors.worth import Array

EACH = slice(None)


class TooManyError(Exception):
    """More halves than may be made at once."""

    def __init__(self, counts: Indices) -> None:
        """Take their numbers by band."""
        super().__init__()
        self.counts = counts


@dataclass(frozen=True)
class Half:
    """Front or back halves; each field is (halves,)."""

    band: Indices
    rows: tuple[Indices, ...]  # of each link
    value: Array  # their weighted sum


@dataclass(frozen=True)
class Halves:
    """All front and back halves that may improve a front, and which make networks."""

    front: Half
    back: Half
    join: Join

    @classmethod
    def of(cls, weighted: Weighted, most: int) -> "Halves":
        """Find all halves. Raises TooManyError where there are more than `most`."""
        chain, least = weighted.chain, weighted.least
        into, after = chain.forward(), chain.backward()
        entered = [np.zeros(0)]
        entered += [chain.entered(n, into[n - 1]) for n in range(1, len(chain.links))]
        rows = []
        for number, link in enumerate(chain.links):
            total = chain.values[number] + at(after[number], EACH, link.depth, link.after)
            if number:
                total += at(entered[number], EACH, link.depth, link.before)
            band, row = np.nonzero(total >= least[:, None])
            rows.append(Half(band, (row,), chain.values[number][band, row]))
        front, back, growth = rows[0], rows[CUT + 1], _Growth(weighted, after, most)
        for number in range(1, CUT + 1):
            nothing = np.zeros(len(front.band))
            front = growth.longer(number, front, nothing, rows[number])
        for number in range(CUT + 2, len(rows)):
            first, own = chain.links[CUT + 1], back.rows[0]
            before = at(entered[CUT + 1], back.band, first.depth[own], first.before[own])
            back = growth.longer(number, back, before, rows[number])
        last, first = chain.links[CUT], chain.links[CUT + 1]
        keys = (
            front.band * last.shape[2] + last.after[front.rows[-1]],
            back.band * last.shape[2] + first.before[back.rows[0]],
        )
        return cls(front, back, Join.of(keys, (front.value, back.value), least[front.band]))

    def counts(self, bands: int) -> Indices:
        """Return the number of networks in each band."""
        return _by_band(self.front.band, self.join, bands)


def _by_band(band: Indices, join: Join, bands: int) -> Indices:
    """Return the number of pairs in each band, from the band of each row of a first table."""
    return np.bincount(band, join.counts, minlength=bands).astype(np.intp)


@dataclass(frozen=True)
class _Growth:
    """Makes halves longer by a link."""

    weighted: Weighted
    after: list[Array]  # the best total after each link, (bands, depths, widths)
    most: int  # halves

    def longer(self, number: int, half: Half, before: Array, rows: Half) -> Half:
        """Return halves that go on to the next link. Raises TooManyError.

        Args:
            number: of that link.
            before: the best total before each half.
            rows: of that link.
        """
        chain, least = self.weighted.chain, self.weighted.least
        last, link = chain.links[number - 1], chain.links[number]
        own = rows.rows[0]
        follows = at(self.after[number], rows.band, link.depth[own], link.after[own])
        keys = (
            half.band * last.shape[2] + last.after[half.rows[-1]],
            rows.band * last.shape[2] + link.before[own],
        )
        join = Join.of(keys, (half.value + before, rows.value + follows), least[half.band])
        if join.total > self.most:
            raise TooManyError(_by_band(half.band, join, len(least)))
        a, b = join.pairs()
        value = half.value[a] + rows.value[b]
        value += chain.side_by_side(
            number, half.band[a], last.depth[half.rows[-1][a]], link.depth[own[b]]
        )
        kept = np.flatnonzero(before[a] + value + follows[b] >= least[half.band[a]] - ROUNDING)
        a, b = a[kept], b[kept]
        return Half(half.band[a], (*(row[a] for row in half.rows), own[b]), value[kept])
