"""Latency of a whole network from a table, with a standard deviation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from lut.device import Device, find_table
from lut.table import Table, load_table
from supernet.blocks import Block, BlockKind

OUTSIDE = 0.25  # of widening, above which a latency counts as extrapolated


@dataclass(frozen=True, slots=True)
class LatencyPrediction:
    """Of one image; `outside` where the table's error was never checked at such a latency."""

    latency_ms: float
    std_ms: float
    outside: bool = False


class LatencyPredictor:
    """A table's sum, and how far to trust it.

    The blocks of a measured table err independently, so their variances add. A calibrated
    table errs as a whole: its relative error is that of architectures left out of the fit.
    Where the fit has seen nothing alike the error is widened, by assumption, as no published
    row tells how it goes on there: by the logarithmic distance from the latencies it has
    seen, and by the share of the latency in kinds of block it has not seen.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self._relative_std = table.relative_std
        error = table.error
        self._seen_ms: tuple[float, float] | None = None
        if error.get("min_ms") and error.get("max_ms"):
            self._seen_ms = float(error["min_ms"]), float(error["max_ms"])
        self._seen_kinds = frozenset(error.get("block_kinds", get_args(BlockKind)))

    def predict(self, blocks: Sequence[Block]) -> LatencyPrediction:
        """Latency of the network that `blocks` make up. Raises TableError for a missing one."""
        entries = [self.table.entry(block) for block in blocks]
        scale = self.table.terms.scale
        in_blocks = scale * sum(entry.latency_ms for entry in entries)
        total = in_blocks + self.table.offset_ms(blocks)
        if self._relative_std is None:
            variance = sum(entry.latency_std_ms**2 for entry in entries)
            return LatencyPrediction(total, scale * math.sqrt(variance))
        unseen = scale * sum(
            entry.latency_ms
            for entry, block in zip(entries, blocks, strict=True)
            if block.kind not in self._seen_kinds
        )
        distance = self._distance(total) + unseen / total
        std = total * self._relative_std * (1 + distance)
        return LatencyPrediction(total, std, outside=distance > OUTSIDE)

    def by_stage(self, blocks: Sequence[Block]) -> dict[str, float]:
        """Milliseconds by stage in order of execution; `offset` is what no block causes."""
        parts: dict[str, float] = {"offset": self.table.offset_ms(blocks)}
        for block in blocks:
            ms = self.table.terms.scale * self.table.entry(block).latency_ms
            parts[block.stage] = parts.get(block.stage, 0.0) + ms
        return parts

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the numbers come from and how wrong they are, for run.json."""
        table = self.table
        return {
            "device": table.device,
            "title": table.title,
            "runtime": table.runtime,
            "precision": table.precision,
            "batch": table.batch,
            "threads": table.threads,
            "provenance": table.provenance,
            "error": dict(table.error),
            "table": table.path.name if table.path else None,
        }

    def describe(self) -> str:
        """One line: provenance and error of the table."""
        error = self.table.error
        text = self.table.provenance
        if "mape_percent" in error:
            judged_on = error.get("judged_on", "whole networks")
            text += f", error {error['mape_percent']:.1f} % on {judged_on}"
        else:
            text += ", never validated on whole networks"
        if self.table.batch != 1:
            text += f", ms per image of a batch of {self.table.batch}"
        return text

    def _distance(self, ms: float) -> float:
        if self._seen_ms is None:
            return 0.0
        lowest, highest = self._seen_ms
        return max(0.0, math.log(lowest / ms), math.log(ms / highest))


def load_predictor(device: Device, dataset: str) -> LatencyPredictor:
    """The predictor of `device` for a data set. Raises DeviceError and TableError."""
    return LatencyPredictor(load_table(find_table(device, device.batch_for(dataset))))
