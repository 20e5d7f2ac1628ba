"""Consecutive stages of networks: all their choices as sums.

Latency, accuracy and distance from the published shapes are functions of the sums over a network's
stages (`nas.exact.pairs`). A network is a front half (the stem and stages up to `CUT`) and a back
half that agree in the width between them and in a `Context`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nas.exact.score import Score
from nas.exact.stages import Digits, Stages
from predictors.accuracy import Prior
from predictors.components import PartComponents, index_of, width_column
from predictors.latency import LatencyPredictor
from predictors.part_shape import StageShapes, shapes_of
from predictors.shape import LAST_STAGES, SPREAD, network_features
from predictors.size import stage_effects
from predictors.worth import Array

Items = dict[str, Array]  # sums of sections by name, each (choices,)


class Section(Stages):
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
        super().__init__(part, latencies, stages)
        self.prior, self.score = prior, Score.of(prior, part)

    def items(self, digits: Digits, *, costs: bool, peak: bool, shape: bool) -> Items:
        """Return the sums of some choices of the section, see `nas.exact.pairs`.

        `costs`, `peak` and `shape` tell whether to have those that not all problems need.
        """
        part, rows = self.part, self.rows(digits)
        macs = rows.macs
        spread = np.zeros(len(rows))
        for stride in {part.slots[slot].stride for slot in self.slots}:
            spread += self.score.of_strides[stride] * np.log(np.maximum(macs[:, stride], 1.0))
        items = {
            **dict(zip(("ms", "other_ms"), self.ms(rows), strict=False)),
            "macs": macs.sum(axis=1),
            "blocks": rows.num_blocks,
            "spread": spread,
            "loss": self._loss(rows.digits),
            "compared": rows.total(part.params_compared),
        }
        if costs:
            items |= {"params": rows.total(part.params), "all_macs": rows.total(part.all_macs)}
        if peak:
            items["peak"] = rows.peak
        return items | (self._shape(rows.digits) if shape else {})

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
