"""What a model is fitted to: rows of genes (named choices), numeric features, and a value each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.errors import PredictorError, nearest, shown

Array = NDArray[np.float64]
Column = Sequence[Any] | NDArray[Any]  # of numbers, or of texts; None or "": no such choice
Columns = Mapping[str, Column]

FEWEST = 12  # distinct rows: a nominal 90 % interval from ranks of errors needs nine
MOST_ROWS, MOST_COLUMNS = 10**6, 2000


@dataclass(frozen=True)
class Table:
    """Distinct rows, sorted, so that the order of lines has no influence on a fit."""

    genes: dict[str, NDArray[Any]]  # float64 with NaN, or str with "", where there is no choice
    features: dict[str, Array]
    values: Array  # means of equal rows
    num_repeated: int  # rows that were averaged into others
    repeats_apart: float = 0.0  # the most by which the values of equal rows differ

    @classmethod
    def of(cls, genes: Columns, values: Column, features: Columns | None = None) -> "Table":
        """Check columns, average the values of equal rows, and sort.

        Raises PredictorError where columns differ in length, hold what is no number or no choice,
        where rows are too few, or where all values are equal.
        """
        given = dict(features or {})
        if not genes and not given:
            raise PredictorError("no columns to predict from; name some as genes or features")
        y = as_numbers(values, "the value")
        _check_sizes({**genes, **given}, len(y))
        choices = {name: choices_named(name, column) for name, column in genes.items()}
        numbers = {name: as_numbers(column, name) for name, column in given.items()}
        keys = list(zip(*(c.tolist() for c in (*choices.values(), *numbers.values())), strict=True))
        keys = [tuple(_sortable(cell) for cell in key) for key in keys]
        first: dict[tuple[Any, ...], list[int]] = {}
        for index, key in enumerate(keys):
            first.setdefault(key, []).append(index)
        order = [first[key] for key in sorted(first)]
        means = np.array([y[rows].mean() for rows in order])
        rows = [rows[0] for rows in order]
        table = cls(
            {name: column[rows] for name, column in choices.items()},
            {name: column[rows] for name, column in numbers.items()},
            means,
            len(y) - len(order),
            max((float(np.ptp(y[rows])) for rows in order), default=0.0),
        )
        table._check()
        return table

    def take(self, rows: NDArray[np.intp]) -> "Table":
        """Return some of the rows."""
        return Table(
            {name: column[rows] for name, column in self.genes.items()},
            {name: column[rows] for name, column in self.features.items()},
            self.values[rows],
            0,
        )

    def __len__(self) -> int:
        return len(self.values)

    def _check(self) -> None:
        count = len(self)
        if count < FEWEST:
            raise PredictorError(
                f"{count} distinct row{'s' * (count != 1)} cannot tell a model from chance; at "
                f"least {FEWEST} are needed, and ten times as many are better"
            )
        if np.ptp(self.values) <= 1e-12 * max(1.0, float(np.abs(self.values).max())):
            raise PredictorError(
                f"all {count} values are {self.values[0]:g}: there is nothing to predict; choose "
                "another column, or evaluate on more pictures"
            )


def as_numbers(column: Column, name: str) -> Array:
    """Return finite numbers. Raises PredictorError, naming the row, for anything else."""
    try:
        numbers = np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.array([_number(cell) for cell in column])
    if numbers.ndim != 1:
        raise PredictorError(f"{name} must be one column, not of shape {numbers.shape}")
    finite = np.isfinite(numbers) & (np.abs(numbers) < 1e15)
    if not finite.all():
        row = int(np.argmin(finite))
        raise PredictorError(f"{name} in row {row + 1} must be a number, not {shown(column[row])}")
    return numbers


def choices_named(name: str, column: Column, numeric: bool | None = None) -> NDArray[Any]:
    """Return `as_choices`; errors tell the name of the column."""
    try:
        return as_choices(column, numeric)
    except PredictorError as reason:
        raise PredictorError(f"gene {shown(name)}: {reason}") from None


def as_choices(column: Column, numeric: bool | None = None) -> NDArray[Any]:
    """Return choices as numbers with NaN, or where some is none (or not `numeric`) as texts.

    An absent choice is NaN or "". Raises PredictorError where `numeric` finds a text.
    """
    cells = np.asarray(column)
    if cells.dtype.kind in "biuf":
        found: NDArray[Any] = cells.astype(np.float64)
        found[~np.isfinite(found)] = np.nan
        return found if numeric in (None, True) else as_choices([_text(x) for x in found], False)
    if cells.dtype.kind == "U" and numeric is False:
        return np.char.strip(cells)
    texts = ["" if cell is None or cell != cell else str(cell).strip() for cell in column]
    if numeric is False:
        return np.array(texts, dtype=str)
    try:
        numbers = np.array([float(text) if text else np.nan for text in texts])
    except ValueError as reason:
        if numeric:
            raise PredictorError(f"a column of numbers holds a text: {reason}") from None
        return np.array(texts, dtype=str)
    if not np.isfinite(numbers[[bool(text) for text in texts]]).all():
        raise PredictorError("a column of choices holds nan or infinity; leave the field empty")
    return numbers


def check_names(given: Columns, known: Sequence[str], what: str) -> None:
    """Raise PredictorError unless all `known` columns are given; further ones do no harm."""
    for name in known:
        if name not in given:
            raise PredictorError(f"no column {shown(name)} among the {what}{nearest(name, given)}")


def _check_sizes(columns: Columns, count: int) -> None:
    if count > MOST_ROWS or len(columns) > MOST_COLUMNS:
        raise PredictorError(
            f"{count} rows of {len(columns)} columns are more than is fitted here, {MOST_ROWS} of "
            f"{MOST_COLUMNS}"
        )
    for name, column in columns.items():
        if len(column) != count:
            raise PredictorError(f"column {shown(name)} has {len(column)} rows, not {count}")


def _sortable(cell: Any) -> tuple[int, Any]:
    """Return a key of a cell; absent choices are equal and come first."""
    return (0, 0) if cell == "" or cell != cell else (1, cell)


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return np.nan


def _text(number: float) -> str:
    return "" if np.isnan(number) else f"{number:g}"
