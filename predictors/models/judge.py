"""How good a model is, from predictions of rows that it has not seen."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.models.table import Array
from results.reading import Count, Finite, NotNegative, Record

TOP = 0.1  # share of the rows that a search is after


class Score(Record, frozen=True):
    """Figures of one kind of model; None where they are undefined."""

    kendall_tau: Finite | None
    top_tau: Finite | None  # among the tenth of the rows whose values are highest
    mae: NotNegative
    rmse: NotNegative
    coverage: Finite | None = None  # share of values in the 90 % interval of others' errors
    width: NotNegative | None = None  # mean of half the interval


class CurvePoint(Record, frozen=True):
    """What the chosen kind reaches with fewer rows."""

    rows: Count
    kendall_tau: Finite | None
    mae: NotNegative


class Judgement(Record, frozen=True):
    """What cross-validation said of all kinds of models."""

    rows: Count
    repeated: Count  # rows that were averaged into others
    folds: Count
    repeats: Count
    guess_mae: NotNegative  # of the mean of the other rows
    scores: dict[str, Score]
    curve: tuple[CurvePoint, ...] = ()

    def to_dict(self, kind: str) -> dict[str, Any]:
        """Return figures of one kind, rounded, as a run's record has them."""
        score = self.scores[kind]
        return {
            "rows": self.rows,
            "folds": self.folds,
            "repeats": self.repeats,
            "kendall_tau": _rounded(score.kendall_tau),
            "top_decile_tau": _rounded(score.top_tau),
            "cross_validated_mae": _rounded(score.mae),
            "mae_of_guessing_the_mean": _rounded(self.guess_mae),
            "coverage_90": _rounded(score.coverage),
        }


def tau(predicted: Array, values: Array) -> float | None:
    """Return Kendall's tau b; None where either is constant or there are fewer than three."""
    from scipy.stats import kendalltau

    if len(values) < 3 or np.ptp(predicted) == 0 or np.ptp(values) == 0:
        return None
    found = float(kendalltau(predicted, values).statistic)
    return None if np.isnan(found) else found


def score(predicted: Array, values: Array) -> Score:
    """Return the figures of predictions (repeats, rows) of values (rows,): means over repeats."""
    errors = predicted - values
    count = max(3, round(TOP * len(values)))
    top = np.argsort(-values, kind="stable")[:count]
    return Score(
        kendall_tau=_mean([tau(row, values) for row in predicted]),
        top_tau=_mean([tau(row[top], values[top]) for row in predicted]),
        mae=float(np.abs(errors).mean()),
        rmse=float(np.sqrt((errors**2).mean())),
    )


def noise_ceiling(values: Array, stderr: float) -> float | None:
    """Return Kendall's tau of values and the same values measured once more, each anew."""
    rng = np.random.default_rng(0)
    return _mean([tau(values + rng.normal(0, stderr, len(values)), values) for _ in range(20)])


def quantile(ratios: Array, covered: float) -> float:
    """Return the value that a further one is below with probability `covered`, by its rank.

    The largest where there are too few.
    """
    rank = int(np.ceil((len(ratios) + 1) * covered))
    return float(np.sort(ratios)[min(rank, len(ratios)) - 1])


def cross_coverage(ratios: Array, folds: NDArray[np.intp], covered: float) -> float:
    """Return the share of rows within an interval that the other folds' errors gave.

    Args:
        ratios: errors over scales, (rows,).
        folds: the fold of each, (rows,).
    """
    within = np.zeros(len(ratios), dtype=bool)
    for fold in np.unique(folds):
        out = folds == fold
        within[out] = ratios[out] <= quantile(ratios[~out], covered)
    return float(within.mean())


def _mean(found: list[float | None]) -> float | None:
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
