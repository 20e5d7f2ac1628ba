"""The shape of one part's networks, as `predictors.shape` sees it, by the choices of each stage."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from predictors.components import LOCAL, MIXER, PartComponents, index_of, width_column
from predictors.part_rows import PartRows
from predictors.shape import (
    LAST_STAGES,
    Box,
    Logs,
    Numbers,
    features_from,
    is_larger,
    lacks_scales,
    reference_of,
    stage_features,
)
from predictors.worth import Array
from supernet.arch import Stage, canonical


@dataclass(frozen=True)
class StageShapes:
    """What tells a stage from an official one, for all choices but width and depth."""

    columns: tuple[str, ...]
    sizes: tuple[int, ...]
    features: Array  # (choices, 6), see `stage_features`
    larger_kernel: Array  # (choices,) 0 or 1
    without_scales: Array  # (choices,) 0 or 1

    @classmethod
    def of(cls, part: PartComponents, number: int) -> "StageShapes":
        """Go through all choices of a stage."""
        names = (*LOCAL, *MIXER)
        columns = [f"stage{number}.{name}" for name in names]
        official = reference_of(part.reference).stages[number - 1]
        fixed: Any = {"width": part.columns[f"stage{number}.width"][0], "depth": 1}
        stages = [
            Stage(**canonical(fixed | dict(zip(names, chosen.values(), strict=True))))
            for chosen in part.choices(columns)
        ]
        return cls(
            tuple(columns),
            tuple(len(part.columns[column]) for column in columns),
            np.array([stage_features(stage, official) for stage in stages]),
            np.array([float(is_larger(stage, official)) for stage in stages]),
            np.array([float(lacks_scales(stage, official)) for stage in stages]),
        )


class PartShapes:
    """The shapes of one part's networks."""

    def __init__(self, part: PartComponents) -> None:
        self.part = part
        numbers = range(len(part.places) - LAST_STAGES + 1, len(part.places) + 1)
        self.stages = [StageShapes.of(part, number) for number in numbers]
        official = reference_of(part.reference).stages
        self._squared: dict[Box, list[Array]] = {}
        self.num_attention = max(sum(bool(stage.scales) for stage in official), 1)

    def network_features(self, rows: PartRows) -> list[Numbers]:
        """Return `shape.network_features` of networks, each a number or (networks,)."""
        last = range(len(self.part.places) - LAST_STAGES + 1, len(self.part.places) + 1)
        depths = [f"stage{number}.depth" for number in last]
        widths = [width_column(number) for number in (last[0] - 1, *last)]
        sizes, stem = rows.digits["resolution"], rows.digits["stem.depth"]
        height, width = self.logs["resolution"].T
        logs = Logs(
            (height.take(sizes), width.take(sizes)),
            self.logs["stem.depth"].take(stem),
            [self.logs[column].take(rows.digits[column]) for column in widths],
            [self.logs[column].take(rows.digits[column]) for column in depths],
        )
        total = sum(self._values(column).take(rows.digits[column]) for column in depths)
        return features_from(rows.macs.sum(axis=1), len(self.part.places), total, logs)

    @cached_property
    def logs(self) -> dict[str, Array]:
        """Return logarithms to base 2 of the choices, of the depth of the stem of one more."""
        names = ["resolution", *(width_column(n) for n in range(len(self.part.places) + 1))]
        names += [f"stage{place.number}.depth" for place in self.part.places]
        logs = {name: np.log2(self._values(name)) for name in names}
        return logs | {"stem.depth": np.log2(1 + self._values("stem.depth"))}

    def squared_excess(self, box: Box, first: int) -> list[Array]:
        """Return by how much stages are beyond a box, as `stages` by stage and row.

        Args:
            first: number of the first feature that is of a stage.
        """
        if box not in self._squared:
            found = []
            for stage in self.stages:
                features = list(stage.features.T)
                found.append(sum(value**2 for value in box.excess(features, first)))
                first += len(features)
            self._squared[box] = found
        return self._squared[box]

    def indices(self, rows: PartRows) -> list[Any]:
        """Return each network's row in `stages`."""
        return [index_of(stage.columns, stage.sizes, rows.digits) for stage in self.stages]

    def _values(self, column: str) -> Array:
        return np.array(self.part.columns[column], dtype=np.float64)


@lru_cache(maxsize=16)
def shapes_of(part: PartComponents) -> PartShapes:
    """Return the shapes of a part, made once."""
    return PartShapes(part)
