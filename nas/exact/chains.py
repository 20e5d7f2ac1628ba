"""Bounds of weighted sums over whole networks, link by link.

All arrays of totals are (weights, depths, widths): by the first depth of a link and its own width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.exact.links import SUMS, Link
from predictors.components import Indices
from predictors.worth import Array


@dataclass(frozen=True)
class Chain:
    """The links of one context, laid out to weigh all their sums at once."""

    links: Sequence[Link]
    sums: Array  # (numbers, rows of all links): SUMS, `other_ms`, with peaks those of each link

    @classmethod
    def of(cls, links: Sequence[Link], *, other: bool, peaks: bool) -> "Chain":
        """Join links.

        `other` and `peaks` tell whether the latency on a second device and activations that are
        live are weighed too.
        """
        sums = [np.concatenate([link.sums for link in links], axis=1)]
        if other:
            sums.append(np.concatenate([link.other_ms for link in links])[None])
        if peaks:
            ends = np.cumsum([link.sums.shape[1] for link in links])
            live = np.zeros((len(links), ends[-1]))
            for own, link, end in zip(live, links, ends, strict=True):
                own[end - len(link.peak) : end] = link.peak
            sums.append(live)
        return cls(links, np.concatenate(sums) if len(sums) > 1 else sums[0])

    def least(self, name: str) -> float:
        """Return the least total of one of the sums over whole networks."""
        weights = np.zeros((1, len(self.sums)))
        weights[0, SUMS.index(name)] = -1.0
        return -float(WeightedChain.of(self, weights).best()[0])


@dataclass(frozen=True)
class WeightedChain:
    """Weighted sums of all choices of all links, for many weights at once."""

    links: Sequence[Link]
    values: Sequence[Array]  # by link, (weights, rows)
    apart: Array  # (weights,) of one squared octave of distance, 0 or less
    is_coupled: Sequence[bool]  # by link, whether its depth beside that before counts

    @classmethod
    def of(cls, chain: Chain, weights: Array) -> "WeightedChain":
        """Take the sums of a chain; weights are (weights, numbers)."""
        used = np.flatnonzero(weights.any(axis=0))
        values = weights[:, used] @ chain.sums[used]
        ends = np.cumsum([link.sums.shape[1] for link in chain.links])[:-1]
        apart = weights[:, SUMS.index("apart")]
        matters = bool(apart.any())
        coupled = [matters and bool(link.apart.any()) for link in chain.links]
        return cls(chain.links, np.split(values, ends, axis=1), apart, coupled)

    def best(self) -> Array:
        """Return the best total over whole networks, (weights,)."""
        best: Array = self.forward()[-1].max(axis=(1, 2))
        return best

    def forward(self) -> list[Array]:
        """Return the best totals up to a link, by link."""
        found: list[Array] = []
        for number in range(len(self.links)):
            own = self._grouped(number)
            if number:
                own = (self.entered(number, found[-1])[:, :, :, None] + own).max(axis=2)
            else:
                own = own[:, :, 0]
            found.append(own)
        return found

    def entered(self, number: int, before: Array) -> Array:
        """Return the best totals before a link, by its first depth, or one for all, and width.

        `before` are those up to the link before.
        """
        if not self.is_coupled[number]:
            most: Array = before.max(axis=1, keepdims=True)
            return most
        entered: Array = (before[:, :, None] + self._beside(number)[:, :, :, None]).max(axis=1)
        return entered

    def backward(self) -> list[Array]:
        """Return the best totals of what follows a link, by link; one for all depths may do."""
        last = self.links[-1].shape
        found = [np.zeros((len(self.apart), 1, last[2]))]
        for number in range(len(self.links) - 1, 0, -1):
            own = (self._grouped(number) + found[0][:, :, None]).max(axis=3)
            if self.is_coupled[number]:
                after = (own[:, None] + self._beside(number)[:, :, :, None]).max(axis=2)
            else:
                after = own.max(axis=1, keepdims=True)
            found.insert(0, after)
        return found

    def side_by_side(self, number: int, weights: Indices, before: Indices, depth: Indices) -> Array:
        """Return what depths of a link and of that before it add."""
        found: Array = self.apart[weights] * self.links[number].apart[before, depth]
        return found

    def _beside(self, number: int) -> Array:
        """Return what depths side by side add, (weights, depths before, depths)."""
        beside: Array = self.apart[:, None, None] * self.links[number].apart
        return beside

    def _grouped(self, number: int) -> Array:
        """Return the best choices of a link, (weights, depths, widths before, widths).

        One for all depths, where they do not matter beside others.
        """
        depths, before, after = self.links[number].shape
        beside = self.is_coupled[number : number + 2]
        groups = (depths if any(beside) else 1, before, after)
        count = math.prod(groups)
        values = self.values[number]
        values = values.reshape(len(values), values.shape[1] // count, count)
        grouped: Array = values.max(axis=1).reshape(len(values), *groups)
        return grouped


def at(totals: Array, weights: Indices | slice, depth: Indices, width: Indices) -> Array:
    """Return totals by depth and width; those of one depth hold for all."""
    found: Array = totals[weights, depth if totals.shape[1] > 1 else 0, width]
    return found
