"""What a network costs, as numbers that tell a predictor its size and where it lies."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.batch import Batch
from predictors.components import Indices
from predictors.models.table import Array
from predictors.onehot import FAMILY, Choices
from predictors.part_rows import PartRows
from supernet.arch import Arch
from supernet.blocks import blocks_of
from supernet.cost import cost_of
from supernet.space import format_value

COUNTED = ("macs", "params", "blocks")


def features_of(archs: Sequence[Arch]) -> dict[str, Array]:
    """Return MACs, parameters and blocks of networks, in all and by stage; 0 without the stage."""
    counts = [_counts(arch) for arch in archs]
    names = dict.fromkeys(name for count in counts for name in count)
    return {name: np.array([count.get(name, 0.0) for count in counts]) for name in sorted(names)}


def genes_of(rows: Sequence[Choices]) -> dict[str, list[Any]]:
    """Return choices as columns: numbers where they are such, else texts; None where there is none.

    A square resolution is its side.
    """
    names = sorted({name for row in rows for name in row})
    return {name: [_gene(name, row.get(name)) for row in rows] for name in names}


def columns_of_batch(batch: Batch) -> tuple[dict[str, NDArray[Any]], dict[str, Array]]:
    """Return genes and features of many networks, as `genes_of` and `features_of` give them.

    Genes are float64, NaN where there is none, or where some are texts str, "" for none.
    """
    found: dict[str, list[tuple[Indices, list[Any], Indices]]] = {}
    features: dict[str, Array] = {}
    for rows in batch.parts:
        own = rows.part.part
        nothing = np.zeros(len(rows), dtype=np.intp)
        found.setdefault(FAMILY, []).append((rows.rows, [own.name], nothing))
        for name in own.dimensions:
            told = found.setdefault(f"{own.name}.{name}", [])
            told.append((rows.rows, *_chosen(rows, name)))
        for name, amounts in _amounts(rows).items():
            features.setdefault(name, np.zeros(len(batch)))[rows.rows] = amounts
    return {name: _column(parts, len(batch)) for name, parts in found.items()}, features


def columns_of_rows(
    rows: PartRows, names: Collection[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, Array]]:
    """Return genes of some of a part's dimensions, and features of the blocks that rows hold.

    As `columns_of_batch` gives them; features in all are the rows' own share.
    """
    own = rows.part.part.name
    every = np.arange(len(rows))
    genes = {
        f"{own}.{name}": _column([(every, *_chosen(rows, name))], len(rows))
        for name in sorted(names)
    }
    return genes, _amounts(rows)


def _chosen(rows: PartRows, name: str) -> tuple[list[Any], Indices]:
    """Return `PartRows.choices` as `genes_of` gives them."""
    choices, position = rows.choices(name)
    return [_gene(name, value) for value in choices], position


def _column(parts: list[tuple[Indices, list[Any], Indices]], count: int) -> NDArray[Any]:
    """Return a dimension's choices in all networks, absent where a part has none of it."""
    if all(isinstance(choice, int) for _, told, _ in parts for choice in told):
        column: NDArray[Any] = np.full(count, np.nan)
    else:
        column = np.full(count, "", dtype=f"U{max(len(str(c)) for _, t, _ in parts for c in t)}")
    for rows, told, position in parts:
        column[rows] = np.array([c if column.dtype.kind == "f" else str(c) for c in told])[position]
    return column


def _amounts(rows: PartRows) -> dict[str, Array]:
    """Return MACs, parameters and blocks, in all and by stage."""
    part = rows.part
    columns = (part.all_macs, part.params, part.all_blocks)
    amounts: dict[str, Array] = {}
    for name, column in zip(COUNTED, columns, strict=True):
        amounts[name] = rows.total(column)
        for number in rows.slots:
            slot = part.slots[number]
            if slot.kind != "head":
                stage = f"stage{slot.number}" if slot.number else "stem"
                total = amounts.setdefault(f"{stage}.{name}", np.zeros(len(rows)))
                total += rows.of_slot(column, number)
    return amounts


def _counts(arch: Arch) -> dict[str, float]:
    totals: dict[str, float] = dict.fromkeys(COUNTED, 0.0)
    for block in blocks_of(arch):
        cost = cost_of(block)
        for name, amount in zip(COUNTED, (cost.macs, cost.params, 1), strict=True):
            totals[name] += amount
            if block.stage != "head":
                stage = f"{block.stage}.{name}"
                totals[stage] = totals.get(stage, 0.0) + amount
    return totals


def _gene(name: str, value: Any) -> int | str | None:
    if value is None or isinstance(value, int):
        return value
    if name.endswith("resolution") and value[0] == value[1]:
        return int(value[0])
    return format_value(name.rpartition(".")[2], value)
