"""Fit models to a table, compare them by cross-validation, and keep one with honest intervals.

from predictors.models.choose import fit

model = fit({"depth": [1, 2, ...], "mixer": ["none", "softmax", ...]}, accuracies)
mean, std = model.predict({"depth": [2], "mixer": ["none"]})

What is chosen (the transformation of the target, weights, the kind, the scale of intervals) is
chosen on the rows of the fit alone.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from predictors.models.encoding import Encoding
from predictors.models.fitting import (
    FOLDS,
    REPEATS,
    CrossValidation,
    Encodings,
    Tuning,
    cross_validate,
    fit_members,
    predict_others,
    tuned,
)
from predictors.models.judge import (
    CurvePoint,
    Judgement,
    Score,
    cross_coverage,
    quantile,
    score,
    tau,
)
from predictors.models.model import (
    COVERED,
    KINDS,
    MEMBERS,
    Interval,
    Kind,
    Member,
    Model,
    scale_of,
)
from predictors.models.table import Array, Column, Columns, Table
from predictors.models.warp import Warp
from results.errors import PredictorError, check_choice

AUTO = "auto"
STEPS = 10  # weights of a mean are tenths
CLEARLY = 0.95  # less than the mean's squared error
EVENNESS = 0.05  # how far weights are drawn to equal ones, as a share of the least squared error
FEWEST_OWN = 150  # rows; of fewer its standard deviations make intervals too narrow
NARROWER = 0.97  # a scale that varies must make intervals this much narrower
SHARES = (0.25, 0.5)  # of the rows, for the learning curve
CURVE_REPEATS, CURVE_TESTED = 4, 400  # rows at most
Weights = dict[Member, float]


def fit(
    genes: Columns, values: Column, features: Columns | None = None, *, model: str = AUTO
) -> Model:
    """Fit to columns by name, and values.

    Args:
        genes: choices, numbers or texts; None or "" where there is none.
        values: numbers; those of equal rows are averaged.
        features: further numbers.
        model: ridge, gp, trees, mean (of the three, weighted), or auto: the best of them.

    Raises PredictorError where columns do not fit together, or the rows are too few or all alike.
    """
    return fit_table(Table.of(genes, values, features), model=model)[0]


@dataclass(frozen=True)
class Evidence:
    """What a model predicts of the rows of its table, by fits that have not seen them."""

    table: Table
    predicted: Array  # (repeats, rows)
    ratios: Array  # errors over the scale of intervals, (repeats, rows)
    folds: NDArray[np.intp]  # (repeats, rows)


def fit_table(table: Table, *, model: str = AUTO, curve: bool = False) -> tuple[Model, Evidence]:
    """Fit to a table, see `fit`; return the model, and what it was judged by.

    With `curve`, which takes longer, the judgement holds a learning curve.
    """
    check_choice("model", model, (AUTO, *KINDS), PredictorError)
    encoding, data = encoded(table)
    bend, theta = tuned(data)
    warp = Warp.of(table.values, bend)
    seen = cross_validate(data, Tuning(bend, theta))
    compared = Comparison(seen, warp, table.values)
    kind = compared.best if model == AUTO else next(kind for kind in KINDS if kind == model)
    judgement = Judgement(
        rows=len(table),
        repeated=table.num_repeated,
        folds=FOLDS,
        repeats=REPEATS,
        guess_mae=_guess_mae(table.values),
        scores={kind: compared.score(kind) for kind in KINDS},
    )
    found = Model(
        kind=kind,
        encoding=encoding,
        warp=warp,
        members=fit_members(data, np.arange(len(table)), warp, theta),
        weights=compared.weights_of(kind),
        interval=compared.interval(kind)[0],
        judgement=judgement,
    )
    if curve:
        points = learning_curve(data, found)
        found = replace(found, judgement=msgspec.structs.replace(judgement, curve=points))
    return found, Evidence(table, compared.predicted(kind), compared.interval(kind)[1], seen.folds)


def encoded(table: Table) -> tuple[Encoding, Encodings]:
    """Return a table as numbers. Raises PredictorError where there are too many, or none varies."""
    encoding = Encoding.of(table)
    z = encoding.encode(table.genes, table.features).z
    if not z.shape[1]:
        raise PredictorError("no column varies: all rows have the same choices and features")
    return encoding, Encodings(z, table.values, encoding.groups, encoding.tree_columns)


class Comparison:
    """What cross-validation says of every kind of model."""

    def __init__(self, seen: CrossValidation, warp: Warp, values: Array) -> None:
        """Take predictions of all rows, and the values that were measured."""
        self.seen, self.warp, self.values = seen, warp, values
        self.t = warp.to(values)
        self.weights = mean_weights(seen.members.reshape(3, -1), np.tile(self.t, REPEATS))
        self._mean = self._honest_mean()

    def transformed(self, kind: Kind) -> Array:
        """Return predictions (repeats, rows), in the transformed scale."""
        return self._mean if kind == "mean" else self.seen.members[MEMBERS.index(kind)]

    def predicted(self, kind: Kind) -> Array:
        """Return predictions (repeats, rows)."""
        return self.warp.back(self.transformed(kind))

    def weights_of(self, kind: Kind) -> Weights:
        """Return the members that a kind is made of."""
        if kind == "mean":
            return {n: w for n, w in zip(MEMBERS, self.weights.tolist(), strict=True) if w}
        return {name: 1.0 for name in MEMBERS if name == kind}

    @property
    def best(self) -> Kind:
        """Return the mean of the members, or a member whose squared error is clearly less."""
        errors = {k: float(((self.transformed(k) - self.t) ** 2).mean()) for k in KINDS}
        least = min(KINDS, key=lambda kind: errors[kind])
        if errors[least] < CLEARLY * errors["mean"]:
            return least
        alone: list[Kind] = [
            name for name, weight in self.weights_of("mean").items() if weight == 1
        ]
        return alone[0] if alone else "mean"

    def interval(self, kind: Kind) -> tuple[Interval, Array]:
        """Return the narrowest intervals that errors support, and errors over scales."""
        t, errors = self.transformed(kind), np.abs(self.predicted(kind) - self.values)
        scales: list[Literal["even", "bent", "own"]] = ["even"]
        scales += ["bent"] if self.warp.bend else []
        trusted = len(self.values) >= FEWEST_OWN
        scales += ["own"] if trusted and kind in ("gp", "mean") else []
        found: list[tuple[float, Interval, Array]] = []
        for name in scales:
            scale = np.array(
                [scale_of(name, self.warp, *row) for row in zip(t, self.seen.own, strict=True)]
            )
            ratios = errors / scale
            factor = float(np.mean([quantile(row, COVERED) for row in ratios]))
            width = factor * float(scale.mean())
            interval = Interval(scale=name, factor=factor, spread=float(self.values.std()))
            if not found or width < NARROWER * found[-1][0]:
                found.append((width, interval, ratios))
        return found[-1][1], found[-1][2]

    def score(self, kind: Kind) -> Score:
        """Return all figures of a kind."""
        interval, ratios = self.interval(kind)
        pairs = zip(ratios, self.seen.folds, strict=True)
        coverage = float(np.mean([cross_coverage(row, folds, COVERED) for row, folds in pairs]))
        t = self.transformed(kind)
        scale = [
            scale_of(interval.scale, self.warp, *row) for row in zip(t, self.seen.own, strict=True)
        ]
        return msgspec.structs.replace(
            score(self.predicted(kind), self.values),
            coverage=coverage,
            width=interval.factor * float(np.mean(scale)),
        )

    def _honest_mean(self) -> Array:
        """Return means by weights that the fold of a row had no part in."""
        found = np.empty(self.seen.folds.shape)
        for fold in range(FOLDS):
            out = self.seen.folds == fold
            rest = self.seen.members[:, ~out]
            values = np.broadcast_to(self.t, out.shape)[~out]
            found[out] = mean_weights(rest, values) @ self.seen.members[:, out]
        return found


def mean_weights(predicted: Array, values: Array) -> Array:
    """Return the tenths, from 0 to 1 and of sum 1, by which predictions (3, n) err least."""
    best, least = np.full(3, 1 / 3), np.inf
    errors = predicted - values
    covariance = errors @ errors.T / errors.shape[1]
    drawn = EVENNESS * float(np.diag(covariance).min())
    for a, b in product(range(STEPS + 1), repeat=2):
        if a + b > STEPS:
            continue
        weights = np.array([a, b, STEPS - a - b]) / STEPS
        error = float(weights @ covariance @ weights) + drawn * float(weights @ weights)
        if error < least:
            best, least = weights, error
    return best


def learning_curve(data: Encodings, model: Model) -> tuple[CurvePoint, ...]:
    """Return what the model's kind reaches with fewer rows, on rows left out."""
    count = len(data.values)
    found = []
    for share in SHARES:
        size = max(10, round(share * count))
        errors, taus = [], []
        for repeat in range(CURVE_REPEATS):
            order = np.random.default_rng(100 + repeat).permutation(count)
            kept, out = order[:size], order[size : size + CURVE_TESTED]
            if np.ptp(data.values[kept]) == 0:
                continue
            parts = predict_others(data, np.sort(kept), out, Tuning(model.warp.bend, None))
            by_name = {"ridge": parts.ridge, "gp": parts.gp, "trees": parts.trees}
            t = sum(weight * by_name[name] for name, weight in model.weights.items())
            predicted = model.warp.back(np.asarray(t))
            errors.append(float(np.abs(predicted - data.values[out]).mean()))
            taus.append(tau(predicted, data.values[out]))
        known = [value for value in taus if value is not None]
        mean_tau = float(np.mean(known)) if known else None
        if errors:
            mae = float(np.mean(errors))
            found.append(CurvePoint(rows=size, kendall_tau=mean_tau, mae=mae))
    own = model.judgement.scores[model.kind]
    whole = count - count // FOLDS
    found.append(CurvePoint(rows=whole, kendall_tau=own.kendall_tau, mae=own.mae))
    return tuple(found)


def _guess_mae(values: Array) -> float:
    """Return the mean error of guessing the mean of all other rows."""
    count = len(values)
    return float(np.abs(values - values.mean()).mean() * count / (count - 1))
