"""Consecutive stages of networks: all their choices as sums.

Latency, accuracy and distance from the published shapes are functions of the sums over a network's
stages (`nas.exact.pairs`). A network is a front half (the stem and stages up to `CUT`) and a back
half that agree in the width between them and in a `Context`: the resolution, and the official
network that head and head dims are taken from.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from lut.table import Table
from nas.exact.score import Score
from predictors.accuracy import Prior
from predictors.components import (
    PICTURE,
    Indices,
    PartComponents,
    index_of,
    width_column,
)
from predictors.latency import LatencyPredictor
from predictors.latency_columns import TRANSFERRED, LatencyColumns
from predictors.part_rows import PartRows
from predictors.part_shape import StageShapes, shapes_of
from predictors.shape import LAST_STAGES, SPREAD, network_features
from predictors.size import stage_effects
from predictors.slots import Slot
from predictors.worth import Array

CUT = 2  # the last stage of the front half
Digits = dict[str, Indices]  # positions of choices, by column
Items = dict[str, Array]  # sums of sections by name, each (choices,)


@dataclass(frozen=True)
class Context:
    """What all stages of a network agree in, as positions of choices."""

    resolution: int
    nearest: int | None  # official network that head or head dims are of; None: both are chosen

    @classmethod
    def all_of(cls, part: PartComponents) -> Iterator["Context"]:
        """Yield all contexts of a part's networks."""
        nearest: Sequence[int | None] = range(len(part.official)) if part.follows else [None]
        sizes = range(len(part.columns["resolution"]))
        for resolution, official in product(sizes, nearest):
            yield cls(resolution, official)

    def digits(self, part: PartComponents) -> dict[str, int]:
        """Return the positions of choices that follow, by column."""
        found = {"resolution": self.resolution}
        if self.nearest is not None:
            found |= {name: int(own[self.nearest]) for name, own in part.follows.items()}
        return found

    def compared(self, part: PartComponents) -> tuple[float, float]:
        """Return the parameters from which and up to which `nearest` is the nearest."""
        if self.nearest is None:
            return -np.inf, np.inf
        params = np.array(list(part.official.values()), dtype=np.float64)
        middles = (params + params[self.nearest]) / 2
        below, above = params < params[self.nearest], params > params[self.nearest]
        return middles[below].max(initial=-np.inf), middles[above].min(initial=np.inf)


class Section:
    """Makes all choices of some consecutive stages of one part's networks, as sums."""

    def __init__(
        self,
        part: PartComponents,
        latencies: Sequence[LatencyPredictor],
        prior: Prior,
        stages: range,
    ) -> None:
        """Take the part, what tells latencies and accuracies, and the numbers of the stages.

        Latencies are those of one device, or of two.

        Raises as `LatencyColumns.of`.
        """
        self.part, self.prior, self.stages = part, prior, stages
        self.latencies = [(own.table, own.columns_of(part)) for own in latencies]
        self.score = Score.of(prior, part)
        self.is_last = stages[-1] == len(part.places)
        self.slots = [n for n, slot in enumerate(part.slots) if self._stage_of(slot) in stages]
        within = {"stem" if n == 0 else f"stage{n}" for n in stages}
        if self.is_last:
            within.add("head")
        self.names = [n for n in part.part.dimensions if n.partition(".")[0] in within]

    def _stage_of(self, slot: Slot) -> int:
        """Return the stage that a slot counts with; the head's, that which it reads."""
        if slot.kind != "head":
            return slot.number
        read = [n for n in self.part.tapped if n != PICTURE and width_column(n) in slot.columns]
        return max([CUT + 1, *read]) if read else len(self.part.places)

    def items(self, digits: Digits, *, costs: bool, peak: bool, shape: bool) -> Items:
        """Return the sums of some choices of the section, see `nas.exact.pairs`.

        `costs`, `peak` and `shape` tell whether to have those that not all problems need.
        """
        part = self.part
        count = len(digits["resolution"])
        rows = PartRows(part, np.arange(count), digits, self.slots)
        macs = rows.macs
        spread = np.zeros(count)
        for stride in {part.slots[slot].stride for slot in self.slots}:
            spread += self.score.of_strides[stride] * np.log(np.maximum(macs[:, stride], 1.0))
        params = rows.total(part.params)
        ms = [self._ms(table, columns, rows, params) for table, columns in self.latencies]
        items = {
            **dict(zip(("ms", "other_ms"), ms, strict=False)),
            "macs": macs.sum(axis=1),
            "blocks": rows.num_blocks,
            "spread": spread,
            "loss": self._loss(rows.digits),
            "compared": rows.total(part.params_compared),
        }
        if costs:
            items |= {"params": params, "all_macs": rows.total(part.all_macs)}
        if peak:
            items["peak"] = rows.peak
        return items | (self._shape(rows.digits) if shape else {})

    def _ms(self, table: Table, columns: LatencyColumns, rows: PartRows, params: Array) -> Array:
        """Return the part of latencies on one device that these stages cause."""
        # A block without a latency takes none here: where that makes a network promising, the
        # predictor is asked for it and refuses.
        ms = np.nan_to_num(rows.total(columns.ms), nan=0.0)
        ms += table.terms.ms_per_m_params * params / 1e6 / table.batch
        if not self.is_last:
            return ms
        sizes = [len(self.part.columns[name]) for name in TRANSFERRED]
        offset: Array = table.terms.offset_of(
            table.batch,
            params_m=0.0,
            transferred_mb=columns.transferred_mb[index_of(TRANSFERRED, sizes, rows.digits)],
            peak_mb=0.0,
            promptable=columns.is_promptable,
        )
        return ms + offset

    def _loss(self, digits: Digits) -> Array:
        """Return what kernels and scales add to the logarithm of the error."""
        known, num_attention = stage_effects(), shapes_of(self.part).num_attention
        loss = np.zeros(len(digits["resolution"]))
        for number, stage in self._last_stages():
            if self._holds(number):
                index = index_of(stage.columns, stage.sizes, digits)
                loss -= known.kernel_effect * stage.larger_kernel[index]
                loss += known.scales_effect * stage.without_scales[index] / num_attention
        return loss

    def _last_stages(self) -> Iterator[tuple[int, StageShapes]]:
        first = len(self.part.places) - LAST_STAGES + 1
        return enumerate(shapes_of(self.part).stages, start=first)

    def _holds(self, number: int) -> bool:
        return number in self.stages

    def _shape(self, digits: Digits) -> Items:
        """Return what the distance from the published shapes is made of.

        `apart` is the square of what these stages alone decide, the sum of `depths` and `octaves`
        (log2 of the last width) are compared with each other, and `first` and `last` (log2 of the
        depths of the first and last stage) with those of the stages beside them.
        """
        part, box = self.part, self.prior.boxes[self.part.part.family]
        last = len(part.places)
        numbers = range(last - LAST_STAGES + 1, last + 1)

        def chosen(name: str) -> Array:
            values: Any = part.columns[name]
            return np.array(values, dtype=np.float64)[digits[name]]

        sizes: Any = part.columns["resolution"]
        height, width = np.array(sizes, dtype=np.float64)[digits["resolution"]].T
        depths = [chosen(f"stage{number}.depth") for number in numbers]
        widths = [chosen(width_column(number)) for number in range(last + 1)]
        nothing = np.zeros_like(height)
        features = network_features(
            nothing + 1, (height, width), last, chosen("stem.depth"), widths, depths
        )
        decided = zip(box.excess(features), self._decided(numbers), strict=True)
        apart = [value if own else nothing for value, own in decided]
        first = SPREAD.stop
        for number, stage in self._last_stages():
            excess = box.excess(list(stage.features.T), first)
            first += len(excess)
            if self._holds(number):
                index = index_of(stage.columns, stage.sizes, digits)
                apart += [value[index] for value in excess]
        own_depths = [d for n, d in zip(numbers, depths, strict=True) if self._holds(n)]
        return {
            "apart": self.prior.distance_of(apart)[0] ** 2,
            "depths": sum(own_depths, nothing),
            "first": np.log2(chosen(f"stage{max(self.stages[0], 1)}.depth")),
            "last": np.log2(chosen(f"stage{max(self.stages[-1], 1)}.depth")),
            "octaves": np.log2(widths[-1]) if self.is_last else nothing,
        }

    def _decided(self, numbers: range) -> list[bool]:
        """Tell for each feature of a network whether these stages alone decide it.

        The first six are MACs, height and width, their ratio, the number of stages, the stem's
        depth, and depths against the last width; what all know counts with the stem. Then
        widths of stages against the stage before, and depths likewise.
        """
        front = self._holds(0)
        widths = [self._holds(number) for number in numbers]
        depths = [self._holds(number) and self._holds(number - 1) for number in numbers[1:]]
        return [False, front, front, front, front, False, *widths, *depths]
