"""Branch and bound over pairs of nodes of two trees."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nas.exact.incumbent import SAME_POINTS, Incumbent
from nas.exact.pairs import Pairs
from predictors.components import Indices
from predictors.worth import Array

CHUNK = 1 << 16  # pairs of nodes that are judged at once
Corners = tuple[Array, Array]  # ms and accuracy that no network passes


@dataclass
class Descent:
    """Goes down two trees, wherever a pair of nodes may hold a network that beats those known."""

    pairs: Pairs
    known: Incumbent
    found: Callable[[Indices, Indices], None]  # takes items of both halves, adds to `known`
    states: int = 0  # pairs of nodes judged

    def run(self, tolerance: float, most_states: int) -> tuple[list[Corners], bool]:
        """Go through all pairs, or through `most_states`.

        Returns what is passed over, the best that networks could be which are faster than those
        known, at equal accuracy, by at most a share of `tolerance` (of 0: nothing), and those
        that there were too many states for; and whether there were none of these.
        """
        passed: list[Corners] = []
        root = np.ones(1, dtype=np.intp)
        stack = [(root, root)]
        most_states += self.states
        front, back = self.pairs.front, self.pairs.back
        while stack and self.states < most_states:
            a, b = self._take(stack)
            self.states += len(a)
            a, b, near = self._promising(a, b, tolerance)
            passed.append(near)
            leaf = (a >= front.leaves) & (b >= back.leaves)
            if leaf.any():
                self._evaluate(a[leaf], b[leaf])
            if not leaf.all():
                stack.append(self._children(a[~leaf], b[~leaf]))
        passed += [(self.pairs.latency(a, b), self.pairs.accuracy(a, b)) for a, b in stack]
        return passed, not stack

    def _take(self, stack: list[tuple[Indices, Indices]]) -> tuple[Indices, Indices]:
        """Take about `CHUNK` pairs off the stack."""
        taken = [stack.pop()]
        while stack and sum(len(a) for a, _ in taken) < CHUNK // 2:
            taken.append(stack.pop())
        a, b = (np.concatenate(own) for own in zip(*taken, strict=True))
        if len(a) > CHUNK:
            stack.append((a[CHUNK:], b[CHUNK:]))
        return a[:CHUNK], b[:CHUNK]

    def _promising(
        self, a: Indices, b: Indices, tolerance: float
    ) -> tuple[Indices, Indices, Corners]:
        """Return the pairs to go on with, and the corners of those that are passed over."""
        ms, accuracy = self.pairs.latency(a, b), self.pairs.accuracy(a, b)
        better = np.flatnonzero(accuracy > self.known.roughly(ms) + SAME_POINTS)
        better = better[self.pairs.may_keep(a[better], b[better])]
        a, b, ms, accuracy = a[better], b[better], ms[better], accuracy[better]
        near = accuracy <= self.known.roughly(ms * (1 + tolerance))
        near &= tolerance > 0
        return a[~near], b[~near], (ms[near], accuracy[near])

    def _evaluate(self, a: Indices, b: Indices) -> None:
        """Give the leaves that beat all known networks to `found`."""
        pairs = self.pairs
        known = self.known.exactly(pairs.latency(a, b)) + SAME_POINTS
        better = pairs.accuracy(a, b) > known
        if better.any():
            item_a = pairs.front.item[a[better] - pairs.front.leaves]
            self.found(item_a, pairs.back.item[b[better] - pairs.back.leaves])

    def _children(self, a: Indices, b: Indices) -> tuple[Indices, Indices]:
        """Return pairs with both children of the wider node of each."""
        front, back = self.pairs.front, self.pairs.back
        halve_a = (a < front.leaves) & ((b >= back.leaves) | (front.width[a] >= back.width[b]))
        own_a, with_b, with_a, own_b = a[halve_a], b[halve_a], a[~halve_a], b[~halve_a]
        return (
            np.concatenate([2 * own_a, 2 * own_a + 1, with_a, with_a]),
            np.concatenate([with_b, with_b, 2 * own_b, 2 * own_b + 1]),
        )
