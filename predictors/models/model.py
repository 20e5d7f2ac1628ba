"""A fitted model: what `predictors.models.choose.fit` returns, and a file holds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from predictors.models.encoding import Encoding
from predictors.models.gp import GaussianProcess
from predictors.models.judge import Judgement
from predictors.models.table import Array, Columns
from predictors.models.trees import Trees
from predictors.models.warp import Warp
from results.reading import NotNegative, Record

Member = Literal["ridge", "gp", "trees"]
Kind = Literal["ridge", "gp", "trees", "mean"]
MEMBERS: tuple[Member, ...] = ("ridge", "gp", "trees")
KINDS: tuple[Kind, ...] = (*MEMBERS, "mean")
COVERED = 0.9
DEVIATIONS = 1.6448536269514722  # of a normal distribution on each side hold 90 %
BASE = 0.7  # share of the ridge's prediction that trees start from
CHUNK = 4096  # rows at a time: their distances stay in the cache's reach


class Interval(Record, frozen=True):
    """How wide a 90 % interval is: a factor that cross-validated errors gave, times a scale.

    even: of one width everywhere; bent: by the slope of the target's transformation; own: also by
    the standard deviation of the Gaussian process.
    """

    scale: Literal["even", "bent", "own"]
    factor: NotNegative  # half the interval, over the scale
    spread: NotNegative  # standard deviation of all values, added for each unseen choice


@dataclass(frozen=True)
class Linear:
    """Ridge regression on encoded columns."""

    mean: float
    effects: Array

    def predict(self, z: Array) -> Array:
        """Return values of rows."""
        values: Array = self.mean + z @ self.effects
        return values


@dataclass(frozen=True)
class Members:
    """Fits to one table, in the scale of the transformed target."""

    ridge: Linear
    gp: GaussianProcess
    trees: Trees
    tree_columns: NDArray[np.intp]

    def predict(self, name: Member, z: Array) -> Array:
        """Return what a member predicts of rows."""
        if name == "gp":
            return self.gp.predict(z)
        if name == "trees":
            return BASE * self.ridge.predict(z) + self.trees.predict(z[:, self.tree_columns])
        return self.ridge.predict(z)


@dataclass(frozen=True)
class Model:
    """Predicts values of genes and features, with intervals that were held to errors."""

    kind: Kind
    encoding: Encoding
    warp: Warp
    members: Members
    weights: dict[Member, float]  # of the mean; of another kind 1 for it
    interval: Interval
    judgement: Judgement

    def predict(self, genes: Columns, features: Columns | None = None) -> tuple[Array, Array]:
        """Return means and standard deviations (rows,) of columns by name.

        A mean plus and minus 1.645 standard deviations is a 90 % interval. A choice that the fit
        has not seen adds the variance of all values. Raises PredictorError for a missing column.
        """
        mean, std, _ = self.predict_all(genes, features)
        return mean, std

    def predict_all(
        self, genes: Columns, features: Columns | None = None
    ) -> tuple[Array, Array, NDArray[np.int64]]:
        """Return means, standard deviations, and how many choices the fit has not seen."""
        encoded = self.encoding.encode(genes, features)
        mean, std = _by_chunks(self._predict, encoded.z)
        added = encoded.unseen * self.interval.spread**2
        return mean, np.sqrt(std**2 + added), encoded.unseen

    def predict_function(
        self, genes: Columns, features: Columns | None = None
    ) -> tuple[Array, Array]:
        """Return means, and the standard deviations of the Gaussian process without its noise.

        They tell where more rows would teach most, which an interval of one width does not; nothing
        has held them to errors. A choice that the fit has not seen counts as a mean one.
        """
        return _by_chunks(self._function, self.encoding.encode(genes, features).z)

    def _function(self, z: Array) -> tuple[Array, Array]:
        mean, own = self.members.gp.predict_function(z)
        t = np.zeros(len(z))
        for name, weight in self.weights.items():
            t += weight * (mean if name == "gp" else self.members.predict(name, z))
        return self.warp.back(t), self.warp.slope(t) * own

    def _predict(self, z: Array) -> tuple[Array, Array]:
        own = None
        t = np.zeros(len(z))
        if self.interval.scale == "own":
            mean, own = self.members.gp.predict_both(z)
            t += self.weights.get("gp", 0.0) * mean
        for name, weight in self.weights.items():
            if name != "gp" or own is None:
                t += weight * self.members.predict(name, z)
        scale = scale_of(self.interval.scale, self.warp, t, own)
        return self.warp.back(t), self.interval.factor / DEVIATIONS * scale


def _by_chunks(predict: Callable[[Array], tuple[Array, Array]], z: Array) -> tuple[Array, Array]:
    """Return means and standard deviations of all rows, some rows at a time."""
    parts = [predict(z[start : start + CHUNK]) for start in range(0, len(z), CHUNK)]
    if not parts:
        return np.zeros(0), np.zeros(0)
    means, stds = zip(*parts, strict=True)
    return np.concatenate(means), np.concatenate(stds)


def scale_of(kind: str, warp: Warp, t: Array, own: Array | None) -> Array:
    """Return what an interval's factor is multiplied by, of transformed predictions `t`."""
    if kind == "even":
        return np.ones(len(t))
    slope = warp.slope(t)
    return slope if own is None or kind == "bent" else slope * own
