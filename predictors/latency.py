"""Latency of a whole network from a table, with a standard deviation."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
from numpy.typing import NDArray

from lut.device import SHIPPED, Device, device_names, find_table, get_device, split_spec
from lut.sidecar import MOST_NOTE
from lut.table import Table, load_table, weakest
from predictors.batch import Batch
from predictors.components import PartComponents
from predictors.latency_columns import EnergyColumns, LatencyColumns
from predictors.part_rows import PartRows
from predictors.shape import Numbers
from predictors.worth import Array
from results.errors import TableError, printable, shortened
from supernet.blocks import Block, BlockKind, blocks_of

OUTSIDE = 0.25  # of widening, above which a latency counts as extrapolated


@dataclass(frozen=True, slots=True)
class LatencyPrediction:
    """The latency of one image."""

    latency_ms: float
    std_ms: float
    provenance: str  # the weakest of the blocks'
    outside: bool = False  # the table's error was never checked on anything alike


class LatencyPredictor:
    """A table's sum, and how far to trust it.

    The rows of a measured table err independently, so their variances add; a block that a
    network repeats repeats its error. A calibrated table errs as a whole: its relative error
    is that of architectures left out of the fit. Where the fit has seen nothing alike the
    error is widened, by assumption, as no published row tells how it goes on there: by the
    logarithmic distance from the latencies it has seen, and by the share of the latency in
    kinds of block it has not seen.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self._relative_std = table.relative_std
        error = table.sidecar.error
        self._seen_ms: tuple[float, float] | None = None
        if error.min_ms and error.max_ms:
            self._seen_ms = error.min_ms, error.max_ms
        kinds = get_args(BlockKind) if error.block_kinds is None else error.block_kinds
        self._seen_kinds = frozenset(kinds)
        self._columns: WeakKeyDictionary[PartComponents, LatencyColumns] = WeakKeyDictionary()
        self._energies: WeakKeyDictionary[PartComponents, EnergyColumns] = WeakKeyDictionary()

    def predict(self, blocks: Sequence[Block]) -> LatencyPrediction:
        """Return the latency of a whole network. Raises TableError where the table has none."""
        total = self.table.network_ms(blocks)
        if not 0 < total < math.inf:
            raise TableError(f"{self.table.path or 'the table'} gives {total} ms for a network")
        entries = {block: self.table.entry(block) for block in blocks}
        provenance = weakest(entry.provenance for entry in entries.values())
        extrapolated = any(entry.extrapolated for entry in entries.values())
        if self._relative_std is None:
            repeats = Counter(blocks)
            scale = self.table.terms.scale
            variance = sum((n * entries[b].latency_std_ms) ** 2 for b, n in repeats.items())
            return LatencyPrediction(total, scale * math.sqrt(variance), provenance, extrapolated)
        unseen = sum(self.table.block_ms(b) for b in blocks if b.kind not in self._seen_kinds)
        distance = float(self._distance(total)) + unseen / total
        std = total * self._relative_std * (1 + distance)
        return LatencyPrediction(total, std, provenance, extrapolated or distance > OUTSIDE)

    def predict_many(self, batch: Batch) -> tuple[Array, Array]:
        """Return milliseconds and their standard deviations, each (networks,), as `predict` does.

        Raises TableError where the table has none.
        """
        ms, std, _ = self.judge(batch)
        return ms, std

    def judge(self, batch: Batch) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Return `predict_many`, and which latencies are of networks unlike all checked ones."""
        ms, std, outside = batch.collect(self._of_part).reshape(len(batch), 3).T
        wrong = np.flatnonzero(~((ms > 0) & np.isfinite(std)))
        if len(wrong):
            self.predict(blocks_of(batch.space.decode(batch.genes[wrong[0]].tolist())))
        return ms, std, outside > 0

    @property
    def has_energy(self) -> bool:
        """Tell whether the energy of any block was measured."""
        return any(entry.energy_mj is not None for entry in self.table.entries.values())

    def predict_energy_mj(self, batch: Batch) -> Array:
        """Return energies of one image in mJ, (networks,); NaN where a block's was not measured."""
        return batch.collect(self._energy_of_part)

    def columns_of(self, part: PartComponents) -> LatencyColumns:
        """Return what the table says of the blocks of a part, looked up once."""
        if part not in self._columns:
            self._columns[part] = LatencyColumns.of(self.table, part, self._seen_kinds)
        return self._columns[part]

    def _energy_of_part(self, rows: PartRows) -> Array:
        if rows.part not in self._energies:
            self._energies[rows.part] = EnergyColumns.of(self.table, rows.part)
        return self._energies[rows.part].network_mj(rows)

    def _of_part(self, rows: PartRows) -> Array:
        """Return milliseconds, standard deviation and whether outside, (networks, 3)."""
        columns = self.columns_of(rows.part)
        total = columns.network_ms(self.table, rows)
        outside = rows.total(columns.extrapolated) > 0
        if self._relative_std is None:
            std = np.sqrt(columns.variance(rows))
        else:
            distance = self._distance(total) + rows.total(columns.unseen_ms) / total
            std = total * self._relative_std * (1 + distance)
            outside |= distance > OUTSIDE
        return np.stack([total, std, outside], axis=1)

    def by_stage(self, blocks: Sequence[Block]) -> dict[str, float]:
        """Return milliseconds by stage in order of execution; `offset` is what no block causes."""
        parts: dict[str, float] = {"offset": self.table.offset_ms(blocks)}
        for block in blocks:
            parts[block.stage] = parts.get(block.stage, 0.0) + self.table.block_ms(block)
        return parts

    @property
    def provenance(self) -> dict[str, Any]:
        """Return where the numbers come from and how wrong they are, for run.json."""
        table = self.table
        return {
            "device": table.device,
            "title": table.title,
            "runtime": table.runtime,
            "precision": table.precision,
            "batch": table.batch,
            "threads": table.threads,
            "provenance": table.provenance,
            "error": msgspec.to_builtins(table.sidecar.error),
            "note": self.note,
            "table": table.path.name if table.path else None,
            "sha256": table.sha256,
        }

    @property
    def note(self) -> str:
        """Return what else must be known of the table's origin; may be empty."""
        return shortened(printable(self.table.sidecar.note), MOST_NOTE)

    def describe(self) -> str:
        """Return provenance and error of the table, in one line."""
        error = self.table.sidecar.error
        path = self.table.path
        own = path is not None and not path.is_relative_to(SHIPPED)
        text = ("own table, " if own else "") + self.table.provenance
        if self.table.remark:
            text += f", {self.table.remark}"
        if error.mape_percent is not None:
            judged_on = "whole networks" if error.judged_on is None else error.judged_on
            judged_on = shortened(printable(judged_on), MOST_NOTE)
            text += f", error {error.mape_percent:.1f} % on {judged_on}"
        else:
            text += ", never validated on whole networks"
        if self.table.batch != 1:
            text += f", ms per image of a batch of {self.table.batch}"
        return text + (f"; {self.note}" if self.note else "")

    def _distance(self, ms: Numbers) -> Numbers:
        if self._seen_ms is None:
            return 0.0
        lowest, highest = self._seen_ms
        return np.maximum(0.0, np.maximum(np.log(lowest / ms), np.log(ms / highest)))


def load_predictor(device: Device, dataset: str) -> LatencyPredictor:
    """Return the predictor of a device for a data set. Raises DeviceError and TableError."""
    return LatencyPredictor(load_table(find_table(device, device.batch_for(dataset))))


def choose_predictor(
    spec: str, table: Path | None, dataset: str
) -> tuple[Device, LatencyPredictor]:
    """Return what --device and --table name together; a table may bring a device of its own.

    Raises DeviceError, and TableError where the table is another device's.
    """
    if table is None:
        device = get_device(spec)
        return device, load_predictor(device, dataset)
    predictor = LatencyPredictor(load_table(table))
    loaded = predictor.table
    spec_of_own = f"{loaded.device}:{loaded.runtime}:{loaded.precision}"
    asked = zip(split_spec(spec), (loaded.device, loaded.runtime, loaded.precision), strict=True)
    if any(part not in (None, known) for part, known in asked):
        raise TableError(f"{table} is of device {spec_of_own}, not {spec}")
    if loaded.device in device_names():
        return get_device(spec_of_own), predictor
    return Device(loaded.device, loaded.title, loaded.runtime, loaded.precision), predictor
