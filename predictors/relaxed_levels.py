"""Upper bounds of accuracies of training alone, from those of inherited accuracies."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from predictors.relaxation import Limits, Link, Logarithms, Relaxation, Rising
from predictors.second_level import Linear
from predictors.worth import Array
from results.errors import PredictorError


def relax_levels(
    first: Relaxation, fit: Linear, links: Sequence[Link], clip: Callable[[Array], Array]
) -> Relaxation:
    """Return the bound of a second level, of inherited accuracy and perhaps of a size.

    Raises PredictorError where networks are the worse the more accuracy they inherit.
    """
    effect = float(fit.effects[0])
    if effect < 0:
        raise PredictorError("networks trained alone get worse with their inherited accuracy")
    constant = fit.mean - float(fit.means @ fit.effects)
    if len(fit.columns) == 1:
        return _Risen(first, lambda value: clip(constant + effect * first.accuracy(value)))
    factor = float(fit.effects[1]) / math.log(2.0)
    curve = Logarithms.of([(first.num_totals, factor, 1.0, constant)])
    return _WithSize(first, effect, _sizes(links, fit.columns[1]), curve, clip)


def _sizes(links: Sequence[Link], column: int) -> list[Array]:
    """Return MACs (column 1) or parameters (2) of networks, by link, (rows,)."""
    parts = [(link.rows, link.rows.part) for link in links]
    return [rows.total(part.all_macs if column == 1 else part.params) for rows, part in parts]


class _Risen(Relaxation):
    """The same values, of accuracies that rise with the first level's."""

    def __init__(self, first: Relaxation, accuracy: Callable[[Array], Array]) -> None:
        self._first, self.accuracy = first, accuracy
        self.totals, self.curves, self.unseen = first.totals, first.curves, first.unseen

    def own(self, limits: Limits) -> list[Array]:
        """Return the first level's sum, by link, (rows,)."""
        return self._first.own(limits)

    def span(self, limits: Limits) -> tuple[Array, Array]:
        """Return what values are at least and at most, (weights,)."""
        return self._first.span(limits)


class _WithSize(Relaxation):
    """Inherited accuracies times an effect, plus the logarithm of a size."""

    def __init__(
        self,
        first: Relaxation,
        effect: float,
        sizes: Sequence[Array],
        of_size: Logarithms,
        clip: Callable[[Array], Array],
    ) -> None:
        self._first, self._of_size, self.accuracy = first, of_size, clip
        self._inherited = Rising(lambda value: effect * first.accuracy(value))
        told = zip(first.totals, sizes, strict=True)
        self.totals = [np.concatenate([totals, size[None]]) for totals, size in told]
        self.curves, self.unseen = of_size, first.unseen

    def own(self, limits: Limits) -> list[Array]:
        """Return the first level's sum, by link, (rows,)."""
        least, most = limits
        return self._first.own((least[:-1], most[:-1]))

    def slopes(self, limits: Limits) -> Array:
        """Return what to begin with: the first level's, of its values, and of sizes."""
        before = _of_first(limits)
        rise = self._inherited.slopes(*self._first.span(before))
        own = self._of_size.slopes(limits)
        return np.concatenate([self._first.slopes(before), rise[:, None], own], axis=1)

    def weigh(self, slopes: Array, limits: Limits) -> tuple[Array, Array]:
        """Replace what accuracies are of the first level's values by a rising line too."""
        before, rise = _of_first(limits), slopes[:, -2]
        weights, added = self._first.weigh(slopes[:, :-2], before)
        added = rise * added + self._inherited.above(rise, *self._first.span(before))
        added += self._of_size.above(slopes[:, -1:], limits)[:, 0]
        return np.concatenate([rise[:, None] * weights, slopes[:, -1:]], axis=1), added

    def span(self, limits: Limits) -> tuple[Array, Array]:
        """Return what values are at least and at most, (weights,)."""
        sizes = [self._of_size.value(own)[:, 0] for own in limits]
        low, high = (self._inherited.value(own) for own in self._first.span(_of_first(limits)))
        return low + np.minimum(*sizes), high + np.maximum(*sizes)


def _of_first(limits: Limits) -> Limits:
    """Return limits of all totals but the last, which is the size."""
    least, most = limits
    return least[:, :-1], most[:, :-1]
