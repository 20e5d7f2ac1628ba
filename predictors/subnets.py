"""The plainest predictor of a supernet's accuracies: every choice adds or costs some points.

Ridge regression on one-hot choices. Its standard deviation is that of subnets it has not seen,
by cross-validation in which each fit, penalty included, is made without the fold. An interplay
of choices is not modelled, and shows up in that error.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from predictors.accuracy import AccuracyPrediction
from predictors.batch import Batch, Predictions, PredictsMany
from predictors.evaluations import Evaluations, unit_of_task
from predictors.onehot import FAMILY, Choices, OneHot, choices_of
from predictors.relaxation import Limits, Link, Logarithms, Relaxable, Relaxation
from predictors.ridge import Ridge, fit_ridge
from predictors.worth import Array
from results.errors import PredictorError, SpaceError
from supernet.arch import Arch, Task
from supernet.space import Space, Value, format_value

FOLDS = 10


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """Errors on subnets that a fit has not seen, in the metric's own points."""

    num_folds: int
    mae: float
    rmse: float
    mean_mae: float  # of guessing the mean of the others instead
    kendall_tau: float | None  # None where all values are equal


@dataclass(frozen=True)
class SubnetPredictor(PredictsMany, Relaxable):
    """Predicts what a subnet of the supernet would be evaluated at."""

    space: Space
    evaluations: Evaluations
    columns: OneHot
    ridge: Ridge
    error: CrossValidation
    spread: float  # standard deviation of the evaluated values
    provenance: str = "supernet"

    @property
    def task(self) -> Task:
        """Return what the supernet does."""
        return self.evaluations.task

    @property
    def dataset(self) -> str:
        """Return the data set that subnets were evaluated on."""
        return self.evaluations.dataset

    @property
    def metric(self) -> str:
        """Return what is predicted, of which data set and weights."""
        return self.evaluations.metric

    def predict(self, arch: Arch) -> AccuracyPrediction:
        """Return mean and standard deviation of any Arch of the space's families.

        A choice that no evaluated subnet has counts as the mean one, marks the prediction as
        extrapolated, and adds the variance of all evaluated values: an assumption, as nothing
        tells what it is worth. Raises SpaceError for an Arch of no part of the space.
        """
        row = choices_of(self.space, arch)
        means, stds, unseen = self._predict([row], self.columns.encode([row]))
        return AccuracyPrediction(float(means[0]), float(stds[0]), extrapolated=bool(unseen[0]))

    def judge(self, batch: Batch) -> Predictions:
        """Return the predictions of many networks, as `predict` gives them."""
        means, stds, unseen = self._predict(batch.choices, batch.one_hot(self.columns))
        return Predictions(means, stds, unseen > 0, np.zeros(len(batch), dtype=np.bool_))

    def predict_function(self, batch: Batch) -> tuple[Array, Array]:
        """Return what `predict_many` does: of a sum of effects nothing else is known."""
        return self.predict_many(batch)

    def relax(self, links: Sequence[Link]) -> Relaxation:
        """Return accuracies as sums over links, which they are but for being clipped."""
        return _Sum(self, links)

    def _predict(
        self, rows: Sequence[Choices], columns: Array
    ) -> tuple[Array, Array, NDArray[np.int64]]:
        """Return means, standard deviations and the numbers of choices that no subnet has."""
        unseen = np.array([self.columns.unseen(row) for row in rows], dtype=np.int64)
        means = self.clip(self.ridge.predict(columns))
        return means, np.sqrt(self.error.rmse**2 + unseen * self.spread**2), unseen

    def clip(self, means: Array) -> Array:
        """Return means within what the metric can be."""
        most = math.inf if unit_of_task(self.evaluations.task) == "dB" else 100.0
        return np.clip(means, 0.0, most)

    def describe(self) -> str:
        """Return provenance and error, in one line."""
        data, error, unit = self.evaluations, self.error, unit_of_task(self.evaluations.task)
        tau = "" if error.kendall_tau is None else f", Kendall tau {error.kendall_tau:.2f}"
        weights = f", weights {data.weights_sha256[:12]}" if data.weights_sha256 else ""
        useless = error.mae >= error.mean_mae
        verdict = ", no better than guessing: evaluate more subnets" if useless else ""
        pictures = f" on {data.num_pictures} pictures each" if data.num_pictures else ""
        return (
            f"{self.provenance}, ridge regression on the choices of {len(data.archs)} subnets "
            f"evaluated{pictures} ({data.path.name}{weights}), error {error.mae:.2f} {unit} on "
            f"average on subnets left out ({error.mean_mae:.2f} for guessing their mean{verdict}), "
            f"std {error.rmse:.2f}{tau}, {error.num_folds}-fold cross-validation; says what shared "
            "weights reach, not what training alone would"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return for run.json everything needed to judge a prediction."""
        data = self.evaluations
        effects = iter(self.ridge.effects.tolist())
        return {
            "provenance": self.provenance,
            "task": data.task,
            "dataset": data.dataset,
            "metric": data.metric,
            "formula": "mean + sum of the effects of all choices",
            "file": data.path.name,
            "sha256": data.sha256,
            "weights_sha256": data.weights_sha256,
            "num_subnets": len(data.archs),
            "num_pictures": data.num_pictures,
            "num_params": self.columns.num_params,
            "folds": self.error.num_folds,
            "cross_validated_mae": self.error.mae,
            "mae_of_guessing_the_mean": self.error.mean_mae,
            "std": self.error.rmse,
            "kendall_tau": self.error.kendall_tau,
            "penalty": self.ridge.penalty,
            "mean": self.ridge.mean,
            "effects": {
                name: {_text(name, choice): round(next(effects), 6) for choice in choices}
                for name, choices in self.columns.seen.items()
            },
        }


class _Sum(Relaxation):
    """What the choices of links add up to."""

    def __init__(self, predictor: SubnetPredictor, links: Sequence[Link]) -> None:
        self._ridge, self._seen = predictor.ridge, predictor.columns.seen
        self.accuracy, self.curves = predictor.clip, Logarithms.of()
        self.totals = [np.zeros((0, len(link.rows))) for link in links]
        part = links[0].rows.part.part.name
        is_known = part in self._seen[FAMILY]
        names = {f"{part}.{name}" for link in links for name in link.names}
        self._own, self.unseen = [], []
        for link in links:
            count = len(link.rows)
            own, unseen = np.zeros(count), np.full(count, not is_known)
            for name in sorted(link.names) if is_known else ():
                choices, position = link.rows.choices(name)
                worth = [self._worth(f"{part}.{name}", choice) for choice in choices]
                own += np.nan_to_num(np.array(worth))[position]
                unseen |= np.isnan(worth)[position]
            self._own.append(own)
            self.unseen.append(unseen)
        self._own[0] += self._ridge.mean
        if is_known:
            others = set(self._seen) - names - {FAMILY}
            self._own[0] += self._worth(FAMILY, part) + sum(self._worth(n, ...) for n in others)

    def _worth(self, name: str, choice: Any) -> float:
        """Return what a choice adds to the mean; NaN for one that no subnet has, ... for none."""
        choices = self._seen.get(name, ())
        if choice is not ... and choice not in choices:
            return math.nan
        before = list(self._seen).index(name)
        start = sum(len(own) for own in list(self._seen.values())[:before])
        means, effects = (
            own[start : start + len(choices)] for own in (self._ridge.means, self._ridge.effects)
        )
        chosen = np.array([float(own == choice) for own in choices])
        return float((chosen - means) @ effects)

    def own(self, limits: Limits) -> list[Array]:
        """Return the sum by link, (rows,)."""
        return self._own

    def span(self, limits: Limits) -> tuple[Array, Array]:
        """Return what values are at least and at most, (weights,)."""
        nothing = np.zeros(len(limits[0]))
        low, high = (sum(float(end(own)) for own in self._own) for end in (np.min, np.max))
        return nothing + low, nothing + high


def fit_subnets(evaluations: Evaluations, space: Space) -> SubnetPredictor:
    """Fit to evaluated subnets of `space`.

    Raises PredictorError where one is of another space, or where they are too few.
    """
    rows = []
    for arch in evaluations.archs:
        try:
            space.encode(arch)
        except SpaceError as error:
            line = evaluations.lines[arch]
            raise PredictorError(
                f"{evaluations.path}, line {line} is of another space: {error}; leave --space out "
                "to search the file's own"
            ) from None
        rows.append(choices_of(space, arch))
    columns = OneHot.of(rows)
    least = rows_for(columns.num_params)
    if len(rows) < least:
        whole = len(space.parts) + sum(
            len(choices) - 1 for part in space.parts for choices in part.dimensions.values()
        )
        needed = max(least, rows_for(whole))
        sample = min(2 * needed, space.size)  # drawn ones may repeat; and more are better
        raise PredictorError(
            f"{evaluations.path} holds {len(rows)} distinct subnets, too few for the "
            f"{columns.num_params} effects of the choices that they have; {needed} are needed: "
            f"`python -m supernet.evaluate --weights CHECKPOINT --sample {sample} --out "
            f"{evaluations.path}`"
        )
    values = np.array(evaluations.values)
    ridge = fit_ridge(columns.encode(rows), values)
    spread = float(values.std())
    judged = cross_validate(rows, values)
    return SubnetPredictor(space, evaluations, columns, ridge, judged, spread)


def rows_for(num_params: int) -> int:
    """Return the fewest rows whose every fit, a fold left out, has as many rows as parameters.

    >>> rows_for(3), rows_for(14)
    (10, 16)
    """
    least = max(num_params, FOLDS)
    while least - math.ceil(least / FOLDS) < num_params:
        least += 1
    return least


def cross_validate(rows: Sequence[Choices], values: Array) -> CrossValidation:
    """Return errors of fits that have not seen a fold; folds depend on the number of rows alone."""
    predicted, guessed = np.empty(len(values)), np.empty(len(values))
    order = np.random.default_rng(0).permutation(len(values))
    for start in range(FOLDS):
        out = order[start::FOLDS]
        kept = [row for index, row in enumerate(rows) if index not in set(out.tolist())]
        columns = OneHot.of(kept)
        rest = np.delete(values, out)
        fit = fit_ridge(columns.encode(kept), rest)
        predicted[out] = fit.predict(columns.encode([rows[index] for index in out]))
        guessed[out] = rest.mean()
    errors = predicted - values
    tau = float(kendalltau(predicted, values).statistic)
    return CrossValidation(
        num_folds=FOLDS,
        mae=float(np.abs(errors).mean()),
        rmse=float(np.sqrt(np.mean(errors**2))),
        mean_mae=float(np.abs(guessed - values).mean()),
        kendall_tau=None if math.isnan(tau) else tau,
    )


def _text(dimension: str, choice: Value) -> str:
    return format_value(dimension.rpartition(".")[2], choice)
