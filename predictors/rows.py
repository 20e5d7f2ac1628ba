"""A table of networks and what they reach, from a CSV file of any space of named dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from predictors.models.table import Table
from results.errors import PredictorError, nearest, shown
from results.sheets import Sheet, parse_number, read_sheet


@dataclass(frozen=True)
class Rows:
    """A table that was read, and the columns that were not."""

    table: Table
    column: str
    ignored: tuple[str, ...]
    remark: str  # on how the file was read; "" where nothing was guessed


def read_rows(path: Path, column: str, genes: Sequence[str], features: Sequence[str]) -> Rows:
    """Read a table.

    Args:
        column: what is predicted.
        genes: names of columns, commas between them, or patterns such as `ks*`.
        features: likewise; columns of numbers.

    Raises PredictorError, naming the line, for what is missing, no number or named twice.
    """
    column = column.strip().lower()
    asked_genes, asked_features = _split(genes), _split(features)
    known = [column, *asked_genes, *asked_features]
    numbers = [column, *asked_features]
    sheet = read_sheet(path, known, numbers=numbers, error=PredictorError)
    if column not in sheet.columns:
        raise PredictorError(
            f"{path} has no column {shown(column)}{nearest(column, sheet.columns)}"
        )
    named_genes = _columns(asked_genes, sheet, path, column)
    named_features = _columns(asked_features, sheet, path, column)
    if both := set(named_genes) & set(named_features):
        raise PredictorError(f"column {shown(min(both))} is a gene and a feature; name it once")
    if not named_genes and not named_features:
        raise PredictorError(f"name the columns to predict {column} from: --genes, --features")
    rows = list(sheet)
    values = [_number(fields, column, f"{path}, line {line}") for line, fields in rows]
    table = Table.of(
        {name: [fields.get(name, "") for _, fields in rows] for name in named_genes},
        values,
        {
            name: [_number(fields, name, f"{path}, line {line}") for line, fields in rows]
            for name in named_features
        },
    )
    used = {column, *named_genes, *named_features, ""}
    ignored = tuple(name for name in sheet.columns if name not in used)
    return Rows(table, column, ignored, sheet.remark)


def _split(texts: Sequence[str]) -> list[str]:
    parts = (part.strip().lower() for text in texts for part in text.split(","))
    return [part for part in parts if part]


def _columns(asked: Sequence[str], sheet: Sheet, path: Path, column: str) -> list[str]:
    """Return the columns that names and patterns stand for, each once, in the order asked."""
    found: dict[str, None] = {}
    for name in asked:
        if name == column:
            raise PredictorError(f"column {shown(column)} is what is predicted; leave it out")
        matches = [c for c in sheet.columns if c and c != column and fnmatchcase(c, name)]
        if name in sheet.columns:
            matches = [name]
        if not matches:
            raise PredictorError(
                f"{path} has no column {shown(name)}{nearest(name, sheet.columns)}"
            )
        found |= dict.fromkeys(matches)
    return list(found)


def _number(fields: dict[str, str], name: str, where: str) -> float:
    text = fields.get(name, "")
    try:
        return parse_number(text)
    except ValueError:
        what = f"not {shown(text)}" if text else "and the field is empty"
        raise PredictorError(f"{where}: {name} must be a number, {what}") from None
