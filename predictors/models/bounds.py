"""Upper bounds of what models predict, as sums over the links of a network.

Of a model's transformed target, which its accuracies rise with. Linear parts are sums over columns,
and a column follows from one link's choices, or is a total over links or its logarithm. Trees
are bounded by `predictors.models.leaves`; the Matern part of a Gaussian process, a function of
known norm in the space of its kernel, is nowhere more than that norm times the root of the kernel's
variance.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from predictors.models.encoding import Encoding, Measure
from predictors.models.gp import GaussianProcess, matern, squared_distances
from predictors.models.leaves import Group, Marks, upper
from predictors.models.model import BASE, Model
from predictors.models.table import Array
from predictors.onehot import FAMILY
from predictors.physical import COUNTED, columns_of_rows
from predictors.relaxation import Limits, Link, Logarithms, Relaxation

ROUNDING = 1e-12  # relative: what it may do to a squared norm


@dataclass(frozen=True)
class Additive:
    """What a model predicts at most: a sum over columns, and trees."""

    constant: float
    effects: Array  # (columns,)
    trees: float  # their weight
    matern: float  # share of the constant, of a part that is between minus and plus that

    @classmethod
    def of(cls, model: Model) -> "Additive":
        """Add up bounds of all members; their weights are 0 or more."""
        own, members = model.weights, model.members
        ridge = own.get("ridge", 0.0) + BASE * own.get("trees", 0.0)
        apart = 0.0
        constant, effects = ridge * members.ridge.mean, ridge * members.ridge.effects
        if weight := own.get("gp", 0.0):
            gp = members.gp
            apart = weight * gp.std * most_of_matern(gp)
            constant += weight * gp.mean + apart
            effects = effects + weight * gp.std * gp.linear
        return cls(constant, effects, own.get("trees", 0.0), apart)


def most_of_matern(gp: GaussianProcess) -> float:
    """Return what the Matern part is nowhere more than, in the scale of standardised values."""
    amount = float(np.exp(gp.theta[(len(gp.theta) - 2) // 2]))
    squared = float(gp.alpha @ matern(squared_distances(gp.rows, gp.rows), amount) @ gp.alpha)
    squared = max(squared, 0.0) + ROUNDING * amount * float(np.abs(gp.alpha).sum()) ** 2
    return math.sqrt(amount * squared)


@dataclass(frozen=True)
class TotalColumn:
    """A column that is a total over links, or its logarithm."""

    column: int
    total: int
    mean: float
    scale: float
    least: float | None  # that the logarithm is taken of; None: no logarithm

    def value(self, totals: Array) -> Array:
        """Return the column of totals."""
        if self.least is not None:
            totals = np.log(np.maximum(totals, self.least))
        return (totals - self.mean) / self.scale

    def logarithm(self, effect: float) -> tuple[int, float, float, float]:
        """Return the column of logarithms times an effect, see `Logarithms.of`."""
        assert self.least is not None
        factor = effect / self.scale
        return self.total, factor, self.least, -factor * self.mean


def totals_of(encoding: Encoding) -> tuple[list[Measure], list[TotalColumn]]:
    """Return the measures that are totals over links, and the columns that these make."""
    measures = [m for m in encoding.measures if m.summed or m.name in COUNTED]
    kept = encoding.scales > 0
    told = zip(encoding.origins, encoding.means[kept], encoding.scales[kept], strict=True)
    return measures, [
        TotalColumn(column, measures.index(own), mean, scale, own.least if is_log else None)
        for column, ((own, is_log), mean, scale) in enumerate(told)
        if isinstance(own, Measure) and own in measures
    ]


class ModelRelaxation(Relaxation):
    """What a model predicts at most of networks of some links."""

    def __init__(
        self, model: Model, links: Sequence[Link], accuracy: Callable[[Array], Array]
    ) -> None:
        """Take what turns the transformed target into accuracies."""
        self._model, self._links, self.accuracy = model, links, accuracy
        self._bound = Additive.of(model)
        self._measures, self._total_columns = totals_of(model.encoding)
        effects = self._bound.effects
        self.curves = Logarithms.of(
            [
                own.logarithm(float(effects[own.column]))
                for own in self._total_columns
                if own.least is not None and effects[own.column]
            ]
        )
        self.totals, self.unseen = [], []
        self._linear, self._groups = [], []  # by link
        columns, trees = model.members.tree_columns, model.members.trees
        for link in links:
            z, totals, unseen = self._encoded(link)
            owned = self._owns(link)
            self.totals.append(totals)
            self.unseen.append(unseen)
            self._linear.append(z @ (effects * owned) + self._of_totals(totals))
            if self._bound.trees:
                self._groups.append(Group(trees, z[:, columns], owned[columns]))
        self._linear[0] += self._constant()

    def _encoded(self, link: Link) -> tuple[Array, Array, Marks]:
        """Return rows of all columns, shares of totals, and which have a choice unseen."""
        encoding, count = self._model.encoding, len(link.rows)
        genes, features = columns_of_rows(link.rows, link.names)
        genes[FAMILY] = np.full(count, link.rows.part.part.name)
        for gene in encoding.genes:
            genes.setdefault(gene.name, np.full(count, np.nan if gene.numbers else ""))
        for name in encoding.features:
            features.setdefault(name, np.zeros(count))
        encoded = encoding.encode(genes, features)
        totals = [
            np.sum([np.nan_to_num(genes[name]) for name in measure.summed], axis=0)
            if measure.summed
            else features[measure.name]
            for measure in self._measures
        ]
        return encoded.z, np.array(totals).reshape(len(totals), count), encoded.unseen > 0

    def _owns(self, link: Link) -> Marks:
        """Tell which columns follow from a link's choices; of the first, what all have too."""
        prefix = f"{link.rows.part.part.name}."

        def is_of(own: Link, name: str) -> bool:
            return name.rpartition(".")[0] in own.stages or name.removeprefix(prefix) in own.names

        names = [own.name for own, _ in self._model.encoding.origins]
        owned = np.array([is_of(link, name) for name in names], dtype=np.bool_)
        if link.is_first:
            owned |= [not any(is_of(own, name) for own in self._links) for name in names]
        owned[[own.column for own in self._total_columns]] = False
        return owned

    def _of_totals(self, totals: Array) -> Array:
        """Return what columns of totals give that are no logarithms, but for a constant."""
        found = np.zeros(totals.shape[1])
        for own in self._total_columns:
            if own.least is None:
                found += self._bound.effects[own.column] / own.scale * totals[own.total]
        return found

    def _constant(self) -> float:
        """Return what is the same for all networks."""
        found = self._bound.constant
        for own in self._total_columns:
            if own.least is None:
                found -= float(self._bound.effects[own.column]) / own.scale * own.mean
        return found

    def own(self, limits: Limits) -> list[Array]:
        """Return the sum of networks whose totals are within limits, by link, (rows,)."""
        if not self._bound.trees:
            return self._linear
        members = self._model.members
        ends = [np.full(len(self._bound.effects), end) for end in (-np.inf, np.inf)]
        for own in self._total_columns:
            for end, totals in zip(ends, limits, strict=True):
                end[own.column] = own.value(totals[own.total])
        least, most = (end[members.tree_columns] for end in ends)
        shares = upper(members.trees, self._groups, (least, most))
        weight = self._bound.trees
        return [own + weight * share for own, share in zip(self._linear, shares, strict=True)]

    def span(self, limits: Limits) -> tuple[Array, Array]:
        """Return what values are at least and at most, (weights,), of limits (weights, totals)."""
        leaves, weight = self._model.members.trees.leaves, self._bound.trees
        start = self._model.members.trees.start
        ends = []
        for end, sign in ((np.min, 1.0), (np.max, -1.0)):
            total = sum(float(end(own)) for own in self._linear)
            total += weight * (start + float(end(leaves, axis=1).sum()))
            curves = end([self.curves.value(own) for own in limits], axis=0).sum(axis=1)
            below = 2 * self._bound.matern if sign > 0 else 0.0
            ends.append(total - below + curves)
        return ends[0], ends[1]
