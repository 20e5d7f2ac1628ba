"""Upper bounds of predicted accuracies as sums over the links of a network.

A network is a chain of links, its stem and stages, and most of what a predictor adds up belongs to
one link. What does not is replaced by something that is never less and is a sum over links too. So
the most that any network is predicted at, latencies weighed against it, is found going from link to
link (`nas.relaxation`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.part_rows import Marks, PartRows
from predictors.worth import Array

CELLS = 1024  # in which a function is held between its ends
Limits = tuple[Array, Array]  # the least and the most of each total, each (..., totals)


@dataclass(frozen=True)
class Link:
    """All choices of some consecutive stages, of networks of one part and resolution."""

    rows: PartRows  # that hold the blocks of these stages alone
    names: frozenset[str]  # dimensions that are chosen in this link and no other
    stages: frozenset[str]  # stem, stage1, ...
    is_first: bool


@dataclass(frozen=True)
class Logarithms:
    """factor log(max(total, floor)) + added, of some totals, by number of the function."""

    total: NDArray[np.intp]
    factor: Array
    floor: Array  # above 0
    added: Array

    @classmethod
    def of(cls, functions: Sequence[tuple[int, float, float, float]] = ()) -> "Logarithms":
        """Take (total, factor, floor, added) of each."""
        told = np.array(functions, dtype=np.float64).reshape(-1, 4).T
        return cls(told[0].astype(np.intp), *told[1:])

    def __len__(self) -> int:
        return len(self.total)

    def value(self, totals: Array) -> Array:
        """Return the functions (..., functions) of totals (..., totals)."""
        return self._value(totals[..., self.total])

    def slopes(self, limits: Limits) -> Array:
        """Return the slopes between limits, (..., functions)."""
        least, most = (own[..., self.total] for own in limits)
        rise = self._value(most) - self._value(least)
        return rise / np.where(most > least, most - least, 1.0)

    def above(self, slopes: Array, limits: Limits) -> Array:
        """Return how far straight lines through 0 must be raised to be nowhere below them.

        A function is highest above a line where both rise as much, at its floor, or at a limit.
        All are (lines, functions), limits (lines, totals).
        """
        least, most = (own[:, self.total] for own in limits)
        with np.errstate(divide="ignore", invalid="ignore"):
            alike = self.factor / slopes
        points = np.stack(np.broadcast_arrays(least, most, self.floor, alike))
        points = np.clip(np.where(np.isfinite(points), points, least), least, most)
        raised: Array = (self._value(points) - slopes * points).max(axis=0)
        return raised

    def _value(self, own: Array) -> Array:
        values: Array = self.factor * np.log(np.maximum(own, self.floor)) + self.added
        return values


@dataclass(frozen=True)
class Rising:
    """Any function that rises."""

    value: Callable[[Array], Array]

    def slopes(self, least: Array, most: Array) -> Array:
        """Return the slopes between limits."""
        rise = self.value(most) - self.value(least)
        return rise / np.where(most > least, most - least, 1.0)

    def above(self, slopes: Array, least: Array, most: Array) -> Array:
        """Return how far lines of slopes of 0 or more must be raised, or a little more."""
        nodes = least[:, None] + (most - least)[:, None] * np.linspace(0.0, 1.0, CELLS + 1)
        # Within a cell the function is at most its end, and a line at least its beginning.
        raised = self.value(nodes[:, 1:]) - slopes[:, None] * nodes[:, :-1]
        return np.asarray(raised.max(axis=1))


class Relaxation(ABC):
    """What networks of some links are predicted at, at most.

    A sum over links plus `curves` of `totals` is never less than a scale that accuracies rise with.
    """

    totals: Sequence[Array]  # by link, (totals, rows)
    curves: Logarithms
    unseen: Sequence[Marks]  # by link, rows with a choice that nothing is known of
    accuracy: Callable[[Array], Array]  # of values of the scale

    @property
    def num_totals(self) -> int:
        """Return the number of totals."""
        return len(self.totals[0])

    @abstractmethod
    def own(self, limits: Limits) -> list[Array]:
        """Return the sum of networks whose totals are within limits (totals,), by link, (rows,).

        -inf for rows that no such network has.
        """

    @abstractmethod
    def span(self, limits: Limits) -> tuple[Array, Array]:
        """Return what values are at least and at most, (weights,), of limits (weights, totals)."""

    def slopes(self, limits: Limits) -> Array:
        """Return what to begin with for `weigh`, (weights, lines)."""
        return self.curves.slopes(limits)

    def weigh(self, slopes: Array, limits: Limits) -> tuple[Array, Array]:
        """Replace the curves by straight lines.

        Args:
            slopes: any, (weights, lines).
            limits: each (weights, totals).

        Returns:
            Weights of `own` and of all totals, (weights, 1 + totals), and what to add, (weights,).
        """
        weights = np.zeros((len(slopes), 1 + self.num_totals))
        weights[:, 0] = 1.0
        for number, total in enumerate(self.curves.total.tolist()):
            weights[:, 1 + total] += slopes[:, number]
        return weights, np.asarray(self.curves.above(slopes, limits).sum(axis=1))


class Relaxable(ABC):
    """A predictor of accuracies that can be bounded over the links of networks."""

    @abstractmethod
    def relax(self, links: Sequence[Link]) -> Relaxation:
        """Return the bound. Raises PredictorError, saying why, where there is none."""
