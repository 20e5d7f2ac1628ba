"""What a network costs, as numbers that tell a predictor its size and where it lies."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from predictors.models.table import Array
from predictors.onehot import Choices
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
